"""Many generations in one process, and what they leave in its memory.

python -m integration_tests.soak --generations 500
"""

from __future__ import annotations

import argparse
import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.testing import tiny_teacher

WARM_UP = 0.2  # share of the generations in which libraries take what they keep
ALLOWED = 0.02  # growth of memory over the others


@dataclass(frozen=True)
class Growth:
    """How memory went.

    Attributes:
        first: bytes at the end of the warm-up, by a straight line through all that follow.
        last: bytes at the end, by the same line.
        tensors: how many tensors there were at the end of the warm-up, and at the end.
    """

    first: float
    last: float
    tensors: tuple[int, int]

    @property
    def share(self) -> float:
        """Growth as a share of what there was."""
        return (self.last - self.first) / self.first


def soak(teacher: nn.Module, generations: int, provider: str = "zeroq", steps: int = 2) -> Growth:
    """Make a set again and again, each with another seed, and watch the memory of this process."""
    memory, tensors = [], []
    gc.collect()
    gc.freeze()  # what was there before is looked at no more, so that the rest is looked at quickly
    try:
        for seed in range(generations):
            params = {"steps": steps, "batch_size": 4}
            dfq.generate(
                teacher, provider=provider, input_shape=(3, 8, 8), num_samples=8, seed=seed, params=params, cache=False
            )
            gc.collect()
            memory.append(psutil.Process().memory_info().rss)
            tensors.append(count_tensors())
    finally:
        gc.unfreeze()
    start = round(generations * WARM_UP)
    first, last = ends_of_line(memory[start:])
    return Growth(first, last, (tensors[start], tensors[-1]))


def ends_of_line(values: Sequence[float]) -> tuple[float, float]:
    """Where the straight line through some values begins and ends."""
    slope, start = np.polyfit(np.arange(len(values)), np.asarray(values, dtype=np.float64), 1)
    return float(start), float(start + slope * (len(values) - 1))


def count_tensors() -> int:
    """How many tensors there are that this process has made since it was frozen, and holds on to."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def main() -> None:
    """Print the growth; the exit code says whether memory stayed flat."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generations", type=int, default=500)
    parser.add_argument("--provider", default="zeroq")
    chosen = parser.parse_args()
    logging.disable()
    growth = soak(tiny_teacher(), chosen.generations, chosen.provider)
    measured = chosen.generations - round(chosen.generations * WARM_UP)
    slope = (growth.last - growth.first) / max(measured - 1, 1)
    print(f"{chosen.generations} generations: {growth.first / 1e6:.1f} MB -> {growth.last / 1e6:.1f} MB")  # noqa: T201
    print(f"{growth.share:+.2%} over the last {measured}, {slope:+.0f} bytes each; tensors {growth.tensors}")  # noqa: T201
    raise SystemExit(growth.share > ALLOWED)


if __name__ == "__main__":
    main()
