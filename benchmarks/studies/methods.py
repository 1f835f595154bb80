"""The comparison of the field: each method on the papers' quantizer, all layers at k bits, the same fine-tuning.

    python benchmarks/studies/methods.py --data DIR                  # what a CPU can do in an afternoon
    python benchmarks/studies/methods.py --data DIR --bits 4 --seeds 0 --methods intraq folder
    python benchmarks/studies/methods.py --data DIR --paper          # the papers' images and steps, on a GPU

ResNet-20, CIFAR-10, drops from float in points; 256 images of each method, 200 steps of 32 images, KL alone; GDFQ,
Qimera and AdaDFQ adapt to the student meanwhile, after a warm-up of 200 steps. (With --paper it is 5,120 images and
IntraQ's 151 epochs of 200 steps of 256.) Weights with a zero point and min-max ranges taken anew at every step,
activations quantized behind ReLUs only, moving extremes, last step. Published are the drops of the papers, the best
epoch of 30,000 to 80,000 steps on a ResNet-20 of 93.89 %, ZeroQ without any. Results are kept in
``benchmarks/results/methods.jsonl``, so that the command goes on where it stopped; the table goes to
``docs/studies/methods.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from cifar import TestImages, load_teacher, make_images
from jobs import Job, Row, Stopwatch, answer, measure_all, measured, minutes_of_images
from papers import CPU, PAPER, learn, quantize
from tables import COST, cost, plot, spread, write_page

METHODS = (
    "noise",
    "fractal",
    "zeroq",
    "gdfq",
    "qimera",
    "gznq",
    "deepinversion",
    "intraq",
    "adadfq",
    "genie",
    "folder",
)
MORE_SEEDS = ("intraq", "adadfq", "genie", "folder")
IMAGES, PAPER_IMAGES = 256, 5120
# Drops from float in points, the best epoch on test data, of the papers on their ResNet-20 for CIFAR-10 (float 93.89).
PUBLISHED: dict[tuple[str, int], float] = {
    ("zeroq", 4): 9.21,
    ("zeroq", 3): 64.57,
    ("gdfq", 5): 0.51,
    ("gdfq", 4): 3.78,
    ("gdfq", 3): 18.78,
    ("qimera", 5): 0.43,
    ("qimera", 4): 2.63,
    ("qimera", 3): 19.46,
    ("intraq", 4): 2.40,
    ("intraq", 3): 16.82,
    ("adadfq", 5): 0.08,
    ("adadfq", 4): 1.58,
    ("adadfq", 3): 9.00,
    ("folder", 3): 5.95,
}


def main() -> None:
    """Measure, then write the page."""
    arguments = parse()
    if arguments.one:
        answer(measure, arguments.one, arguments.data)
        return
    jobs = jobs_of(arguments.methods, arguments.bits, arguments.seeds, paper=arguments.paper)
    study = "methods_paper" if arguments.paper else "methods"
    measure_all(study, jobs, __file__, arguments.data)
    write(study, measured(study))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="beyond 0 only where a gap is small")
    parser.add_argument("--paper", action="store_true", help="as long as in the papers, for a GPU")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def jobs_of(methods: list[str], bits: list[int], seeds: list[int], *, paper: bool) -> Iterator[Job]:
    """Everything once before anything twice."""
    budget = (PAPER if paper else CPU).describe()
    for seed in seeds:
        for width in bits:
            for method in methods:
                if seed == 0 or method in MORE_SEEDS:
                    yield {"method": method, "bits": width, "seed": seed, **budget}


def measure(job: Job, data: Path) -> Row:
    """One student: quantized on the method's images, then distilled on them, or on its generator's batches."""
    teacher, method, seed = load_teacher(data), job["method"], job["seed"]
    budget = PAPER if job["steps"] == PAPER.describe()["steps"] else CPU
    count = PAPER_IMAGES if budget.paper else IMAGES
    with Stopwatch() as making:
        images = make_images(teacher, data, method, count=count, seed=seed, paper=budget.paper)
    student = quantize(teacher, images, job["bits"])
    learn(teacher, student, method, images, budget, seed=seed)
    return {**TestImages(data, teacher).measure(student), "images_minutes": making.minutes}


def write(study: str, rows: list[Row]) -> None:
    """The table of drops, and minutes and memory of each method."""
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]

    def drops(method: str, bits: int) -> list[float]:
        return [row["drop"] for row in rows if (row["method"], row["bits"]) == (method, bits)]

    table = []
    for method in methods:
        cells = [spread(drops(method, bits)) for bits in widths]
        published = [f"{PUBLISHED[method, bits]:.2f}" if (method, bits) in PUBLISHED else "" for bits in widths]
        own = [row for row in rows if row["method"] == method]
        table.append([method, *cells, *published, *cost(own, minutes_of_images(method, IMAGES))])
    header = ["method", *(f"W{bits}A{bits}" for bits in widths), *(f"published W{bits}A{bits}" for bits in widths)]
    text = __doc__.split("\n\n")[2].replace("\n", " ")
    write_page(study, "Methods on the papers' quantizer", text, [*header, *COST], table)
    lines = {method: {float(bits): drops(method, bits) for bits in widths if drops(method, bits)} for method in methods}
    plot(study, ("bits", "drop from float, points"), lines)


if __name__ == "__main__":
    main()
