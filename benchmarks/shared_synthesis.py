"""Seconds that the processes of a job take for one set of images; ``performance.py`` starts it.

    torchrun --standalone --nproc-per-node 2 benchmarks/shared_synthesis.py resnet18 64 32 20

Arguments: network, side of an image, images a batch, steps a batch; eight batches are made.
"""

from __future__ import annotations

import sys
import time

from performance import build

import dfq_plugin as dfq
from dfq_plugin.processes import joined

BATCHES = 8


def main() -> None:
    """Make the images once for nothing, and once for the clock."""
    name, (side, batch, steps) = sys.argv[1], (int(value) for value in sys.argv[2:])
    network = build(name, side)
    with joined() as crew, crew.sharing():
        for count in (2, BATCHES):  # the first lays memory out
            params = {"steps": steps, "batch_size": batch, "parallel_batches": 2}
            crew.meet()
            start = time.perf_counter()
            dfq.generate(
                network,
                provider="intraq",
                input_shape=(3, side, side),
                num_samples=count * batch,
                params=params,
                cache=False,
            )
            crew.meet()
            seconds = time.perf_counter() - start
    if crew.is_main:
        print(seconds)


if __name__ == "__main__":
    main()
