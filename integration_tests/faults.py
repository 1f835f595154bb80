"""One harness around every call that changes the disk: it lists them, and makes one of them fail.

Two kinds of failure: an error, as of a full disk, after which the process goes on; and a death, after which no call
changes the disk any more, not even those that would tidy up.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pytest

PACKAGE = str(Path(__file__).parent.parent / "dfq_plugin")
CHANGING = set("wax+")

Kind = Literal["none", "error", "death"]


class DeathError(BaseException):
    """The process is gone: no handler for errors sees this."""


class Faults:
    """Counts the calls that change files below some folders, and fails at one of them.

    Args:
        roots: the folders.
        at: the number of the call that fails, from 0.
        kind: how.

    Attributes:
        sites: what was called, for which file, from which line of the package.
    """

    def __init__(self, roots: Sequence[Path], at: int = -1, kind: Kind = "none") -> None:
        self._roots = [f"{root}{os.sep}" for root in roots]
        self._at, self._kind = at, kind
        self.sites: list[str] = []

    def visit(self, what: str, path: object) -> bool:
        """Note a call; returns whether it is to fail, which is what raises for all calls but writes."""
        name = str(path)
        if not any(f"{name}{os.sep}".startswith(root) for root in self._roots):
            return False
        self.sites.append(f"{what} {_plain(Path(name).name)} {_caller()}")
        count = len(self.sites) - 1
        return (count == self._at and self._kind != "none") or (count > self._at and self._kind == "death")

    def fail(self, path: object) -> None:
        """Fail as the kind says."""
        if self._kind == "death":
            raise DeathError
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def __call__(self, what: str, path: object) -> None:
        if self.visit(what, path):
            self.fail(path)


class TornFile:
    """A file whose writes can break off in the middle."""

    def __init__(self, file: IO[Any], path: object, faults: Faults) -> None:
        self._file, self._path, self._faults = file, path, faults

    def write(self, content: Any) -> int:
        if self._faults.visit("write", self._path):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            self._faults.fail(self._path)
        return self._file.write(content)

    def __enter__(self) -> TornFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def watched(faults: Faults) -> Iterator[Faults]:
    """Put the harness around the calls."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "remove", "mkdir", "rmdir"):
            patch.setattr(os, name, _on_path(getattr(os, name), name, faults))
        for name in ("replace", "rename", "link"):
            patch.setattr(os, name, _on_target(getattr(os, name), name, faults))
        patch.setattr(os, "fsync", _on_descriptor(os.fsync, faults))
        opener = _on_open(io.open, faults)
        patch.setattr(io, "open", opener)
        patch.setattr(builtins, "open", opener)
        yield faults


def _on_path(call: Callable[..., Any], name: str, faults: Faults) -> Callable[..., Any]:
    def wrapped(path: Any, *rest: Any, dir_fd: int | None = None, **more: Any) -> Any:
        folder = "" if dir_fd is None else f"{_path_of(dir_fd)}{os.sep}"
        faults(name, f"{folder}{os.fspath(path)}")
        return call(path, *rest, **more) if dir_fd is None else call(path, *rest, dir_fd=dir_fd, **more)

    return wrapped


def _on_target(call: Callable[..., Any], name: str, faults: Faults) -> Callable[..., Any]:
    def wrapped(source: Any, target: Any, **more: Any) -> Any:
        faults(name, target)
        return call(source, target, **more)

    return wrapped


def _on_descriptor(call: Callable[[int], None], faults: Faults) -> Callable[[int], None]:
    def wrapped(descriptor: int) -> None:
        faults("fsync", _path_of(descriptor))
        call(descriptor)

    return wrapped


def _on_open(call: Callable[..., Any], faults: Faults) -> Callable[..., Any]:
    def wrapped(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not CHANGING & set(mode) or isinstance(file, int):
            return call(file, mode, *rest, **more)
        faults("open", os.fspath(file))
        return TornFile(call(file, mode, *rest, **more), os.fspath(file), faults)

    return wrapped


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _plain(name: str) -> str:
    """A name without what differs from run to run: process number, digest, number of the batch."""
    return re.sub(r"\.\d+\.[0-9a-f]{8}\.partial$|[0-9a-f]{16,}|\d{6}", "*", name)


def _caller() -> str:
    """The innermost line of the package that is running."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
