"""What an image of 224 pixels costs with each method.

    python benchmarks/studies/large_images.py
    python benchmarks/studies/large_images.py --steps 100 --methods genie adadfq

EfficientNet-Lite0 with its ImageNet weights; 16 images in batches of 8, 20 steps each, and 40 steps of the generators
that learn along, where the papers take hundreds to thousands; the seconds of an image grow in proportion to the steps.
Results are kept in ``benchmarks/results/large_images.jsonl``; the table goes to ``docs/studies/large_images.md``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from jobs import Job, Row, Stopwatch, answer, measure_all, measured
from tables import table_of, write_text

import dfq_plugin as dfq

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT, BATCH, STEPS = 16, 8, 20
# With its number of sweeps over the steps; None makes images without any.
METHODS: dict[str, int | None] = {
    "noise": None,
    "fractal": None,
    "zeroq": 1,
    "gznq": 1,
    "deepinversion": 1,
    "intraq": 1,
    "genie": 1,
    "gdfq": 2,
    "qimera": 2,
    "adadfq": 2,
}


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--data", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        answer(measure, arguments.one, arguments.data)
        return
    jobs = [{"method": method, "steps": arguments.steps * (METHODS[method] or 0)} for method in arguments.methods]
    measure_all("large_images", jobs, __file__, arguments.data)
    write(measured("large_images"))


def measure(job: Job, data: Path) -> Row:  # noqa: ARG001 - no data is needed
    """Sixteen images of one method."""
    sys.path.append(str(EXAMPLES))
    from networks import efficientnet_lite0

    network = efficientnet_lite0().eval()
    params: dict[str, Any] = {"steps": job["steps"], "batch_size": BATCH} if METHODS[job["method"]] else {}
    with Stopwatch() as making:
        made = dfq.generate(
            network,
            provider=job["method"],
            input_shape=(3, 224, 224),
            num_samples=COUNT,
            params=params,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            cache=False,
        )
    with torch.no_grad():
        classes = network(made.images).argmax(dim=1)
    found = None if made.labels is None else round((classes == made.labels).float().mean().item() * 100)
    return {"images": len(made), "images_minutes": making.minutes, "own_class": found}


def write(rows: list[Row]) -> None:
    """A line for each method and number of steps."""
    table = [
        [
            row["method"],
            row["steps"] or "-",
            row["images"],
            f"{row['images_minutes'] * 60 / row['images']:.1f}",
            f"{row['memory_gb']:.1f}",
            "-" if row["own_class"] is None else f"{row['own_class']} %",
        ]
        for row in sorted(rows, key=lambda row: list(METHODS).index(row["method"]))
    ]
    header = ["method", "steps", "images", "seconds an image", "GB", "seen as their own class"]
    text = __doc__.split("\n\n")[2].replace("\n", " ")
    write_text("large_images", ["# Large images", text, table_of(header, table)])


if __name__ == "__main__":
    main()
