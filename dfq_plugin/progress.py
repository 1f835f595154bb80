"""How far a long loop has come: a bar with the time left on a terminal, two log lines everywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Generic, TypeVar, overload

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger("nncf.dfq_plugin.progress")

Item = TypeVar("Item")


class track(Generic[Item]):  # noqa: N801 - reads as the function that it is to its callers
    """Show how far a loop has come.

    Use it around what is looped over, or as a context manager whose ``advance`` is called::

        for batch in track(batches, "Optimising images"):
            ...
        with track(12, "Optimising images") as progress:
            progress.advance()

    Args:
        work: What to loop over, or the number of steps; a number loops over ``range(work)``.
        description: What is being done, in a few words.
    """

    _shared: Progress | None = None  # loops inside loops share one display: two of them garble each other

    @overload
    def __init__(self: track[int], work: int, description: str) -> None: ...
    @overload
    def __init__(self, work: Iterable[Item], description: str) -> None: ...
    def __init__(self, work: int | Iterable[Item], description: str) -> None:
        self._work = work
        self._description = description
        self._total = work if isinstance(work, int) else len(work) if isinstance(work, Sized) else None
        self._done = 0
        self._started = 0.0
        self._owned: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> track[Item]:
        self._started = time.monotonic()
        if on_terminal():
            if track._shared is None:
                track._shared = self._owned = _make_display()
                self._owned.start()
            self._task = track._shared.add_task(self._description, total=self._total)
        else:
            logger.info("%s: %s", self._description, "started" if self._total is None else f"0 of {self._total}")
        return self

    def advance(self, steps: int = 1) -> None:
        """Count steps that are done."""
        self._done += steps
        if track._shared is not None and self._task is not None:
            track._shared.advance(self._task, steps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            total = "" if self._total is None else f" of {self._total}"
            outcome = "" if kind is None else ", stopped"
            elapsed = time.monotonic() - self._started
            logger.info("%s: %d%s in %.1f s%s", self._description, self._done, total, elapsed, outcome)
        if self._owned is not None:
            self._owned.stop()
            track._shared = self._owned = None
        self._task = None

    def __iter__(self) -> Iterator[Item]:
        items: Iterable[Item] = range(self._work) if isinstance(self._work, int) else self._work  # type: ignore[assignment]
        with self:
            for item in items:
                yield item
                self.advance()


def on_terminal() -> bool:
    """Whether bars are drawn: someone watches standard error."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def _make_display() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
