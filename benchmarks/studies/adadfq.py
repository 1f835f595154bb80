"""The studies of AdaDFQ: its weights, the number of generated samples, the size of a batch.

    python benchmarks/studies/adadfq.py --data DIR                              # all sweeps and the batches
    python benchmarks/studies/adadfq.py --data DIR --sweeps alpha_ds beta
    python benchmarks/studies/adadfq.py --data DIR --paper                      # 400 epochs of 200 steps, on a GPU

ResNet-20, CIFAR-10, the papers' quantizer on every layer, W3A3 unless the line says otherwise; a generator that learns
beside the student for 8 epochs of 25 batches of 16, after a warm-up of 4 epochs; the student learns by AdaDFQ's own
loss alone; last step, one seed. The sweep of samples changes the batches of an epoch, so that more samples are more
steps of the student too, as in the released code.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cifar import TestImages, load_teacher, make_images
from jobs import Job, Row, Stopwatch, answer, measure_all, measured
from papers import SGD, Budget, learn, quantize
from tables import plot, spread, table_of, write_text

DEFAULTS: dict[str, Any] = {"alpha_ds": 0.2, "alpha_as": 0.1, "beta": 1.0, "gamma": 1.0}
SETTINGS = {"losses": {"disagreement": 1.0}, "temperature": 20.0}
CPU = Budget(epochs=8, steps=25, batch=16, settings=SETTINGS)
PAPER = Budget(
    epochs=400,
    steps=200,
    batch=16,
    paper=True,
    settings={**SETTINGS, **SGD, "milestones": (100, 200, 300)},
)


@dataclass(frozen=True)
class Sweep:
    """One setting, the values it takes, and what the paper found."""

    values: tuple[float, ...]
    published: str


SWEEPS = {
    "alpha_ds": Sweep((0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8), "best at 0.2 (ResNet-18, W3A3)"),
    "alpha_as": Sweep((0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8), "best at 0.1 (ResNet-18, W3A3)"),
    "beta": Sweep((0, 0.2, 0.4, 0.6, 0.8, 1, 2, 5), "best at 0.8, much worse above 1 (ResNet-18, W5A5)"),
    "gamma": Sweep((0, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10), "best at 2, 65.41 to 65.55 from 1 to 5 (MobileNetV2, W4A4)"),
    "samples": Sweep(
        (100, 200, 400, 800, 1600), "66.61 to 66.81 from 1,600 to 6,400 an epoch, worse beyond (CIFAR-100, W4A4)"
    ),
}
BATCHES, WIDTHS = (16, 64), (4, 3)


def main() -> None:
    """Measure, then write the page."""
    arguments = parse()
    if arguments.one:
        answer(measure, arguments.one, arguments.data)
        return
    study = "adadfq_paper" if arguments.paper else "adadfq"
    measure_all(
        study, list(jobs_of(arguments.sweeps, arguments.seeds, paper=arguments.paper)), __file__, arguments.data
    )
    write(study, measured(study))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS), choices=list(SWEEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--paper", action="store_true", help="as long as in the paper, for a GPU")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def jobs_of(sweeps: list[str], seeds: list[int], *, paper: bool) -> Iterator[Job]:
    """The batches first, then each sweep; what two of them share is one job."""
    budget = PAPER if paper else CPU
    start = {**DEFAULTS, "bits": 3, "batch": budget.batch, "steps_per_epoch": budget.steps, "epochs": budget.epochs}
    for seed in seeds:
        for batch in BATCHES:
            for bits in WIDTHS:
                yield {**start, "batch": batch, "bits": bits, "seed": seed}
        for name in sweeps:
            for value in SWEEPS[name].values:
                changed = {"steps_per_epoch": int(value) // budget.batch} if name == "samples" else {name: value}
                yield {**start, **changed, "seed": seed}


def measure(job: Job, data: Path) -> Row:
    """One student, calibrated on the method's own set, then trained against its generator."""
    teacher = load_teacher(data)
    base = PAPER if job["epochs"] == PAPER.epochs else CPU
    budget = replace(base, steps=job["steps_per_epoch"], batch=job["batch"])
    with Stopwatch() as making:
        images = make_images(teacher, data, "adadfq", count=256, seed=job["seed"], paper=base.paper)
    student, test = quantize(teacher, images, job["bits"]), TestImages(data, teacher)
    before = test.measure(student)
    params = {name: job[name] for name in DEFAULTS}
    history = learn(teacher, student, "adadfq", images, budget, seed=job["seed"], params=params)
    told = {"loss": history.losses, **history.curves}
    curves = {name: [round(value, 4) for value in values] for name, values in told.items()}
    return {"before": before, **test.measure(student), "curves": curves, "images_minutes": making.minutes}


def write(study: str, rows: list[Row]) -> None:
    """One table and one plot for each sweep, and the curves of the batches."""
    parts = ["# Studies of AdaDFQ", __doc__.split("\n\n")[2].replace("\n", " ")]
    parts += [
        "## Batches of 16 and of 64",
        table_of(["batch", "bits", "top-1 before", "top-1", "drop"], _batches(rows)),
    ]
    parts += [_draw_curves(study, rows)]
    for name, sweep in SWEEPS.items():
        points = _points(name, rows)
        if len(points) > 1:
            line = [[f"{value:g}", spread([row["top1"] for row in own])] for value, own in points.items()]
            drops = {"here, ResNet-20 W3A3": {value: [row["top1"] for row in own] for value, own in points.items()}}
            plot(f"{study}_{name}", (name, "top-1, percent"), drops)
            title = "samples an epoch" if name == "samples" else name
            parts += [f"## {title}", f"Published: {sweep.published}.", table_of([title, "top-1"], line)]
            parts += [f"![{title}]({study}_{name}.svg)"]
    write_text(study, parts)


def _batches(rows: list[Row]) -> list[list[object]]:
    own = [row for row in rows if _is_default(row, {"batch", "bits"})]
    return [[row["batch"], row["bits"], row["before"]["top1"], row["top1"], row["drop"]] for row in own]


def _is_default(row: Row, free: set[str]) -> bool:
    """Whether all but some settings of a row have their defaults."""
    start = {**DEFAULTS, "bits": 3, "batch": CPU.batch}
    if "steps_per_epoch" not in free:
        start["steps_per_epoch"] = PAPER.steps if row["epochs"] == PAPER.epochs else CPU.steps
    return all(row[name] == value for name, value in start.items() if name not in free)


def _points(name: str, rows: list[Row]) -> dict[float, list[Row]]:
    """The rows of a sweep by its value, in order."""
    field = "steps_per_epoch" if name == "samples" else name
    own = [row for row in rows if _is_default(row, {field})]
    scale = CPU.batch if name == "samples" else 1
    values = sorted({row[field] * scale for row in own})
    return {value: [row for row in own if row[field] * scale == value] for value in values}


def _draw_curves(study: str, rows: list[Row]) -> str:
    """By epoch, the warm-up included: the adaptability of the images, and the losses of the generator."""
    own = [row for row in rows if _is_default(row, {"batch", "bits"})]
    pictures = []
    for curve in ("adaptability", "margin", "balance", "batchnorm"):
        lines = {
            f"W{row['bits']}A{row['bits']}, batch {row['batch']}": {
                float(epoch): [value] for epoch, value in enumerate(row["curves"][f"generator.{curve}"], start=1)
            }
            for row in own
        }
        label = curve if curve == "adaptability" else f"generator's loss: {curve}"
        plot(f"{study}_{curve}", ("epoch, warm-up included", label), lines)
        pictures.append(f"![{label}]({study}_{curve}.svg)")
    return "\n\n".join(pictures)


if __name__ == "__main__":
    main()
