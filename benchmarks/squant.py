"""Seconds and memory that SQuant takes to round the weights of whole networks.

    python benchmarks/squant.py resnet18 resnet50 --bits 4

Random weights: the time does not depend on them. The ranges are those of the search for the bits; medians of five runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch
from torch import Tensor, nn

from dfq_plugin.quantization.ranges import search_channel_scales
from dfq_plugin.quantization.squant import on_grid
from dfq_plugin.student import Grid

RUNS = 5


def main() -> None:
    """Measure each network and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names of torchvision networks")
    parser.add_argument("--bits", type=int, default=4)
    arguments = parser.parse_args()
    for name in arguments.networks:
        print(json.dumps(measure(name, arguments.bits)), flush=True)


@torch.no_grad()
def measure(name: str, bits: int) -> dict[str, object]:
    """Round every convolution and linear layer of one network."""
    from torchvision import models

    network = models.get_model(name, weights=None)
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    start = time.perf_counter()
    grids = [grid_of(weight, bits) for weight in weights]
    ranges = time.perf_counter() - start
    before, seconds = peak_memory_mb(), []
    for _ in range(RUNS):
        start = time.perf_counter()
        for weight, grid in zip(weights, grids, strict=True):
            on_grid(weight, grid)
        seconds.append(time.perf_counter() - start)
    return {
        "network": name,
        "bits": bits,
        "million_weights": round(sum(weight.numel() for weight in weights) / 1e6, 1),
        "range_search_s": round(ranges, 2),
        "squant_s": round(statistics.median(seconds), 2),
        "memory_mb": round(peak_memory_mb() - before),
        "threads": torch.get_num_threads(),
    }


def grid_of(weight: Tensor, bits: int) -> Grid:
    """The grid of each output channel that suits a weight."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    step = search_channel_scales(weight, low, high) / high
    return Grid(step, torch.zeros_like(step, dtype=torch.int64), low, high, 0)


def peak_memory_mb() -> float:
    """The most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
