"""How long each stage took, and how much memory the process has held at most."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dfq_plugin.memory import freed_memory_kept, memory_explained
from dfq_plugin.wording import say_seconds

logger = logging.getLogger("nncf.dfq_plugin.progress")


class Stopwatch:
    """Seconds per stage, in the order they ran; the log has one line for each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time the block takes to the stage's, and name the stage when memory runs out in it."""
        start, outcome = time.perf_counter(), "stopped after"
        try:
            with freed_memory_kept(), memory_explained(name):
                yield
            outcome = "done in"
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            logger.info("Stage %s: %s %s", name, outcome, say_seconds(elapsed))


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Time a block; what it gives tells the seconds up to now, or those of the block once that has ended."""
    start, ended = time.perf_counter(), list[float]()
    try:
        yield lambda: (ended[0] if ended else time.perf_counter()) - start
    finally:
        ended.append(time.perf_counter())


def peak_memory_bytes() -> int | None:
    """The most memory this process has held at one time; None where the system does not tell."""
    if importlib.util.find_spec("resource") is None:
        return None
    import resource  # noqa: PLC0415 - not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
