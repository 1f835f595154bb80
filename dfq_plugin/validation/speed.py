"""Latency of the float and the integer file, measured side by side.

The two are run in turn in one process on one thread, so that whatever else the machine does hits both alike; the
figures are medians, and their ratio is what can be relied on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dfq_plugin.validation.runtime import open_session, run

WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one image on one thread."""

    float_ms: float
    integer_ms: float
    runs: int


def measure(float_path: str | Path, integer_path: str | Path, input_shape: tuple[int, int, int], runs: int) -> Latency:
    """Time both files on one image, ``runs`` times each, in turn."""
    image = np.random.default_rng(0).standard_normal((1, *input_shape)).astype(np.float32)
    sessions = [open_session(Path(path), threads=1) for path in (float_path, integer_path)]
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + runs):
        for session, record in zip(sessions, times, strict=True):
            elapsed = _time(session, image)
            if turn >= WARM_UP:
                record.append(elapsed)
    return Latency(median(times[0]), median(times[1]), runs)


def _time(session: Any, image: np.ndarray[Any, Any]) -> float:  # noqa: ANN401 - onnxruntime ships no types
    start = time.perf_counter()
    run(session, image)
    return 1000.0 * (time.perf_counter() - start)
