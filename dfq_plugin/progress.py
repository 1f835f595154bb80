"""How far a long loop has come: a bar with the time left on a terminal, a few log lines everywhere else.

Whoever wants to know how fast a loop runs can watch it instead, and leave it after a few steps (``watch_loops``).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Generic, TypeVar, overload

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

from dfq_plugin.wording import say_seconds

logger = logging.getLogger("nncf.dfq_plugin.progress")

LOG_EVERY_S = 60.0  # between two log lines of one loop

Item = TypeVar("Item")


class EnoughSeen(BaseException):
    """Leaves a watched loop; no error, and so out of reach of whoever catches those."""


@dataclass
class Loop:
    """What was seen of a loop.

    Attributes:
        description: what is being done.
        total: its steps; None when they are not known.
        done: the steps that were taken.
        seconds: how long they took.
        first_s: how long it took until the first of them was done.
        first: how many steps that was, as some loops count several at once.
    """

    description: str
    total: int | None
    done: int = 0
    seconds: float = 0.0
    first_s: float = 0.0
    first: int = 0

    @property
    def step_s(self) -> float:
        """Seconds a step; the first, in which memory is laid out, is left out where there are others."""
        if self.done > self.first:
            return (self.seconds - self.first_s) / (self.done - self.first)
        return self.seconds / max(self.done, 1)


@dataclass
class Watch:
    """The loops that ran while they were watched.

    Attributes:
        stop_after_s: leave a loop when it has run for so long and taken two steps; None lets them run.
        loops: in the order in which they began.
    """

    stop_after_s: float | None
    loops: list[Loop] = field(default_factory=list)

    def step(self, loop: Loop, steps: int, seconds: float) -> None:
        """Note steps that are done, and leave the loop when enough of it was seen."""
        loop.done, loop.seconds = loop.done + steps, seconds
        if not loop.first:
            loop.first, loop.first_s = steps, seconds
        elif self.stop_after_s is not None and seconds >= self.stop_after_s:
            raise EnoughSeen


@contextmanager
def watch_loops(stop_after_s: float | None = None) -> Iterator[Watch]:
    """Watch the loops in a block, which then draw no bars and write no log lines.

    Args:
        stop_after_s: leave the block when one of its loops has run for so long and taken two steps; None never does.
    """
    before, track.watch = track.watch, Watch(stop_after_s)
    try:
        yield track.watch
    except EnoughSeen:
        pass
    finally:
        track.watch = before


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

    watch: ClassVar[Watch | None] = None
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
        self._started = self._told = 0.0
        self._seen: Loop | None = None
        self._owned: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> track[Item]:
        self._started = self._told = time.perf_counter()
        if track.watch is not None:
            self._seen = Loop(self._description, self._total)
            track.watch.loops.append(self._seen)
        elif on_terminal():
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
        if self._seen is not None and track.watch is not None:
            track.watch.step(self._seen, steps, time.perf_counter() - self._started)
        elif self._task is None:
            self._log_now_and_then()
        if track._shared is not None and self._task is not None:
            track._shared.advance(self._task, steps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seen is not None:
            self._seen.seconds = time.perf_counter() - self._started
        elif self._task is None:
            total = "" if self._total is None else f" of {self._total}"
            outcome = "" if kind is None else ", stopped"
            elapsed = time.perf_counter() - self._started
            logger.info("%s: %d%s in %.1f s%s", self._description, self._done, total, elapsed, outcome)
        if self._owned is not None:
            self._owned.stop()
            track._shared = self._owned = None
        self._task = None

    def _log_now_and_then(self) -> None:
        now = time.perf_counter()
        if now - self._told < LOG_EVERY_S or self._total is None or self._done >= self._total:
            return
        self._told = now
        left = say_seconds((now - self._started) / self._done * (self._total - self._done))
        logger.info("%s: %d of %d, about %s left", self._description, self._done, self._total, left)

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
