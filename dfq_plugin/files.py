"""Files that are either whole or not there, whatever ends the process or the machine.

Every final name is written here: under a temporary name, flushed to the disk, renamed. What a killed process leaves
behind has a name that no reader looks for, and is removed by the next one that owns the folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dfq_plugin.errors import InputError, OutputError
from dfq_plugin.locks import BusyError, claim

LOCK = ".lock"  # in an output folder while a command works there
MAX_JSON_BYTES = 64 * 2**20  # of files that this package writes itself
DRAFT = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.partial")
NO_SPACE = errno.ENOSPC
NO_ROOM = {NO_SPACE, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends well and is removed otherwise.

    Raises:
        OutputError: the disk is full, or refuses; what was at ``path`` before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _draft_name(path)
    try:
        with room_explained(path):
            yield partial
            put_in_place(partial, path)
    finally:
        with suppress(OSError):  # a draft that stays is not worth the result, or the error that led here
            partial.unlink(missing_ok=True)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``, for files that ``put_in_place`` takes; gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _draft_name(path)
    folder.mkdir()
    try:
        with room_explained(path):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(draft: Path, path: Path) -> None:
    """Give a finished draft its final name, on the same disk; a power cut leaves the old file or the new one."""
    _flush(draft)
    draft.replace(path)
    _flush(path.parent)


def remove_drafts(folder: Path, of: str = "") -> None:
    """Remove the drafts that killed processes have left.

    Args:
        folder: where this process is the only writer of ``of``.
        of: the final name of the drafts; empty for all of them.
    """
    for entry in folder.iterdir():
        if DRAFT.fullmatch(entry.name) and entry.name.startswith(f".{of}"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


@contextmanager
def output_folder(folder: str | Path) -> Iterator[Path]:
    """Have a folder for oneself: made, seen to take files, and cleared of what a killed process left half done.

    Raises:
        InputError: it cannot be written to, or another process is working in it.
    """
    path = make_output_folder(folder)
    try:
        with claim(path / LOCK):
            remove_drafts(path)
            for below in path.iterdir():
                if below.is_dir() and not below.is_symlink():
                    remove_drafts(below)
            yield path
    except BusyError as error:
        msg = f"The output folder {path} is in use by {error.holder}; wait for it, or choose another with --output."
        raise InputError(msg) from error


def make_output_folder(folder: str | Path) -> Path:
    """Make a folder and see that it can be written to, before hours of work go into what belongs there.

    Raises:
        InputError: it cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)  # a full disk takes empty files
    except OSError as error:
        msg = f"The output folder {path} cannot be written to ({error.strerror}); choose another with --output."
        raise InputError(msg) from error
    return path


@contextmanager
def room_explained(path: Path) -> Iterator[None]:
    """Say what to do when a file cannot be written."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        msg = (
            f"{path} cannot be written ({error.strerror}); what was there before is kept. Make room or choose another "
            "folder with --output, and run the same command again: it goes on from what is finished."
        )
        raise OutputError(error.errno, msg) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that this package has written.

    Raises:
        InputError: it is missing, too large, too deep, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            msg = f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB, so it is none of this package's files."
            raise InputError(msg)
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"There is no file {path}."
        raise InputError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} cannot be read as JSON: {error}."
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds no JSON object."
        raise InputError(msg)
    return content


def _draft_name(path: Path) -> Path:
    # The process number and the random part keep two writers of one file from sharing a temporary name.
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _flush(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, and not only the system's memory."""
    if sys.platform == "win32" and path.is_dir():
        return  # a folder cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
