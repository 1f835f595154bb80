"""Locks between processes that end with the process that holds them, so that a dead one never blocks."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock


class BusyError(Exception):
    """Another process holds the lock; ``holder`` says which, in words."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


@contextmanager
def claim(file: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold a lock of the operating system while the block runs; its file is gone afterwards.

    Args:
        file: what stands for the lock, in a folder that exists.
        waiting: called once, with the holder in words, before waiting for a lock that is held; None does not wait.

    Raises:
        BusyError: the lock is held and ``waiting`` is None.
        OSError: the file cannot be made.
    """
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = _holder(file)
        if waiting is None:
            raise BusyError(holder) from None
        waiting(holder)
        lock.acquire()
    try:
        with suppress(OSError):  # the note is for people; some systems let nobody write to a locked file
            started = datetime.now(UTC).isoformat(timespec="seconds")
            file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}))
        yield
    finally:
        try:
            with suppress(OSError):  # removed while it is held: whoever takes it next makes a new one
                file.unlink()
        finally:
            lock.release()


def _holder(file: Path) -> str:
    try:
        note = json.loads(file.read_text())
        return f"process {note['pid']} on {note['host']} (since {note['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
