"""The rows of ``performance.py``, kept from run to run, and the page and the plot that are made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from studies.tables import table_of

HERE = Path(__file__).parent
PAGE, PLOT = HERE.parent / "docs" / "performance.md", HERE.parent / "docs" / "performance_growth.svg"
RESULTS = HERE / "results" / "performance.jsonl"
REMARKS = HERE / "performance_remarks.md"
TARGETS = {
    "ours / floor": "<= 1.15",
    "plain / ours": ">= 2.0",
    "plain / bfloat16": ">= 4.0 with AMX",
    "fine-tuning / training": "<= 1.6",
    "with kept answers": "<= 1.6",
    "one process / two": ">= 1.7",
    "most / fewest": "1",
    "exponent": "1",
    "minutes": "<= 4",
    "GB": "<= 3",
}
UNITS = {"ms": "ms a step", "seconds": "s", "MB": "MB"}
GROWTH = "time of a step over "
COMMAND = "python benchmarks/performance.py"
Row = dict[str, Any]


def keep(rows: Sequence[Row], rounds: int, steps: int) -> list[Row]:
    """Put rows, with what they were measured on, in place of their earlier ones; the result is all there are."""
    here = f"{torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    on = f"{here}, {rounds} rounds of {steps} steps"
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    fresh = [json.loads(json.dumps({**row, "on": on})) for row in rows]  # keys as they come back from the file
    everything = {row["what"]: row for row in [*known, *fresh]}
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in everything.values()))
    return list(everything.values())


def write(rows: Sequence[Row], method: str) -> None:
    """The page, with what was to be reached beside what was.

    Args:
        rows: all there are.
        method: a paragraph on how they were measured.
    """
    lines = ["# Performance", "", method, ""]
    lines += [f"Command: `{COMMAND}`. Measured on: {'; '.join(sorted({row['on'] for row in rows}))}.", ""]
    cells = [
        (row["what"], _measured(row), f"{name} {row[name]}", target)
        for row in rows
        for name, target in TARGETS.items()
        if name in row
    ]
    lines += [table_of(["what", "measured", "ratio or exponent", "target"], cells)]
    grown = [row for row in rows if row["what"].startswith(GROWTH)]
    if grown:
        plot(grown)
        lines += ["", f"![Time over the amount of work, on logarithmic axes]({PLOT.name})"]
    PAGE.write_text("\n".join([*lines, "", REMARKS.read_text().strip()]) + "\n")


def _measured(row: Row) -> str:
    for name, unit in UNITS.items():
        if name in row:
            return ", ".join(f"{key} {value}" for key, value in row[name].items()) + f" {unit}"
    return "-"


def plot(rows: Sequence[Row]) -> None:
    """Draw the times of each row over its sizes, with the line of exponent 1 through the largest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = PLOT.stem  # the same picture every time
    figure, axes = plt.subplots(1, len(rows), figsize=(3.4 * len(rows), 3.0), squeeze=False)
    for axis, row in zip(axes[0], rows, strict=True):
        points: Mapping[float, float] = {float(size): seconds for size, seconds in row["seconds"].items()}
        most = max(points)
        axis.loglog(list(points), list(points.values()), marker="o", label=f"measured, exponent {row['exponent']}")
        axis.loglog(list(points), [points[most] * size / most for size in points], "--", color="gray", label="linear")
        axis.set(xlabel=row["what"].removeprefix(GROWTH), ylabel="seconds a step")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
