"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dfq_plugin.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends well and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number and the random part keep two writers of one file from sharing a temporary name.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_output_folder(folder: str | Path) -> Path:
    """Make a folder and see that it can be written to, before hours of work go into what belongs there.

    Raises:
        InputError: it cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with whole_file(path / ".writable") as probe:
            probe.touch()
        (path / ".writable").unlink()
    except OSError as error:
        msg = f"The output folder {path} cannot be written to ({error.strerror}); choose another with --output."
        raise InputError(msg) from error
    return path
