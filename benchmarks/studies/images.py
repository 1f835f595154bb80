"""What the images alone are worth: the same student, the same training, 256 images of each method.

    python benchmarks/studies/images.py --data DIR
    python benchmarks/studies/images.py --data DIR --methods mdc adi --seeds 0 1 2     # the two ways to diverse images
    python benchmarks/studies/images.py --data DIR --methods intraq --counts 256 1280 5120

ResNet-20, CIFAR-10, W4A4 in every layer with ranges that are learned (placement deployable), 300 steps of 64 images,
last step. Beside accuracy stands the distance within a class: of the pooled features of the float network, the mean
over the images of a class of 1 - cosine to their mean. Results are kept in ``benchmarks/results/images.jsonl``; the
table goes to ``docs/studies/images.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from cifar import TestImages, load_teacher, make_images
from jobs import Job, Row, Stopwatch, answer, measure_all, measured, minutes_of_images
from tables import COST, cost, spread, write_page
from torch import Tensor, nn
from torch.nn import functional as F

import dfq_plugin as dfq

# Each method as a provider with settings; the variants of IntraQ leave out one of its parts.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise": ("noise", {}),
    "fractal": ("fractal", {}),
    "dead_leaves": ("dead_leaves", {}),
    "zeroq": ("zeroq", {}),
    "gdfq": ("gdfq", {}),
    "qimera": ("qimera", {}),
    "gznq": ("gznq", {}),
    "deepinversion": ("deepinversion", {}),
    "adi": ("deepinversion", {"competition": 0.2}),
    "intraq": ("intraq", {}),
    "mdc": ("intraq", {"use_lor": False}),
    "intraq_without_mdc": ("intraq", {"use_mdc": False}),
    "intraq_with_rotation": ("intraq", {"rotation": 15.0}),
    "intraq_without_flip": ("intraq", {"use_flip": False}),
    "intraq_in_bfloat16": ("intraq", {"precision": "bfloat16"}),
    "adadfq": ("adadfq", {}),
    "genie": ("genie", {}),
    "real": ("folder", {}),
}
STEPS, BATCH = 300, 64


def main() -> None:
    """Measure, then write the page."""
    arguments = parse()
    if arguments.one:
        answer(measure, arguments.one, arguments.data)
        return
    jobs = [
        {"method": method, "count": count, "seed": seed}
        for seed in arguments.seeds
        for count in arguments.counts
        for method in arguments.methods
    ]
    measure_all("images", jobs, __file__, arguments.data)
    write(measured("images"))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--counts", nargs="+", type=int, default=[256])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(job: Job, data: Path) -> Row:
    """One student, trained on one set."""
    teacher = load_teacher(data)
    provider, params = METHODS[job["method"]]
    with Stopwatch() as making:
        images = make_images(teacher, data, provider, count=job["count"], seed=job["seed"], params=params)
    student = dfq.quantize(teacher, images, weight_bits=4, activation_bits=4, first_last_bits=None)
    test = TestImages(data, teacher)
    before = test.measure(student)
    dfq.finetune(teacher, student, images, epochs=1, steps_per_epoch=STEPS, batch_size=BATCH, seed=job["seed"])
    return {
        "before": before,
        **test.measure(student),
        "within_class": within_class(teacher, images.images),
        "images_minutes": making.minutes,
    }


@torch.no_grad()
def pooled_features(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the classifier of the float network reads, (N, 64), and the class that it sees, (N,)."""
    features: list[Tensor] = []
    handle = teacher.get_submodule("linear").register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    device = next(teacher.parameters()).device
    logits = torch.cat([teacher(part.to(device)) for part in images.split(256)])
    handle.remove()
    return torch.cat(features).cpu(), logits.argmax(dim=1).cpu()


def within_class(teacher: nn.Module, images: Tensor) -> float:
    """How far the images of a class, as the teacher sees them, are from their mean: 0 for copies of one image."""
    features, classes = pooled_features(teacher, images)
    pooled, distances = F.normalize(features, dim=1), []
    for label in classes.unique():
        own = pooled[classes == label]
        if len(own) > 1:
            distances.append((1 - F.cosine_similarity(own, own.mean(dim=0, keepdim=True))).mean())
    return round(torch.stack(distances).mean().item(), 4)


def write(rows: list[Row]) -> None:
    """One line for each method and number of images."""
    table = []
    for method, count in sorted({(row["method"], row["count"]) for row in rows}, key=place):
        own = [row for row in rows if (row["method"], row["count"]) == (method, count)]
        calibrated = spread([row["before"]["top1"] for row in own])
        digits = {"top1": 2, "drop": 2, "within_class": 3}
        cells = [spread([row[name] for row in own], places) for name, places in digits.items()]
        table.append([method, count, calibrated, *cells, *cost(own, minutes_of_images(method, count))])
    text = __doc__.split("\n\n")[2].replace("\n", " ")
    header = ["images", "number", "top-1 before", "top-1", "drop", "within class", *COST]
    write_page("images", "What the images are worth", text, header, table)


def place(line: tuple[str, int]) -> tuple[int, int]:
    """Where a line stands: as in METHODS, then by the number of images."""
    return list(METHODS).index(line[0]), line[1]


if __name__ == "__main__":
    main()
