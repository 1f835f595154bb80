"""What the images look like, and how they lie in feature space.

    python benchmarks/studies/pictures.py --data DIR

ResNet-20, CIFAR-10. Contact sheets have a row for each class; those of AdaDFQ come from generators that played against
students of 3, 4 and 5 bits. The scatter shows the pooled features of the float network, on the two directions in which
the real images vary most, for 256 images of deepinversion with competition (ADI) and of IntraQ without object
reinforcement (MDC), with the distance within a class that ``images.py`` measures.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from cifar import MEAN, STD, load_teacher, make_images
from images import METHODS, pooled_features, within_class
from matplotlib import pyplot as plt
from tables import PAGES, table_of, write_text
from torch import Tensor, nn

from dfq_plugin.report.contact_sheet import draw_contact_sheet
from dfq_plugin.report.pictures import Pictures
from dfq_plugin.synthetic_set import SyntheticSet

COUNT, SEED = 256, 0
SHEETS = ("intraq", "adi", "genie", "qimera", "fractal")
SCATTER = {"ADI": "adi", "MDC": "mdc"}
WIDTHS = (3, 4, 5)


def main() -> None:
    """Make the images, or take them from the cache, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    mpl.use("Agg")
    PAGES.mkdir(parents=True, exist_ok=True)
    teacher = load_teacher(data)
    parts = ["# Pictures", __doc__.split("\n\n")[2].replace("\n", " ")]
    parts += _scatter(teacher, data)
    for bits in WIDTHS:
        images = make_images(teacher, data, "adadfq", count=COUNT, seed=SEED, params={"student_bits": bits})
        parts += _sheet(f"AdaDFQ against a student of {bits} bits", f"adadfq_{bits}", images)
    for name in SHEETS:
        parts += _sheet(name, name, _images(teacher, data, name))
    write_text("pictures", parts)


def _images(teacher: nn.Module, data: Path, name: str) -> SyntheticSet:
    provider, params = METHODS[name]
    return make_images(teacher, data, provider, count=COUNT, seed=SEED, params=params)


def _sheet(title: str, name: str, images: SyntheticSet) -> list[str]:
    """One PNG from the rows of the sheet, classes in order."""
    strips = draw_contact_sheet(Pictures(images.images, images.labels, MEAN, STD))
    rows = [mpl.image.imread(io.BytesIO(strip.png)) for strip in strips]
    gap = np.zeros((4, *rows[0].shape[1:]), dtype=rows[0].dtype)
    sheet = np.concatenate([part for row in rows for part in (row, gap)])
    mpl.image.imsave(PAGES / f"sheet_{name}.png", np.ascontiguousarray(sheet[::3, ::3]))  # back to 32 pixels a side
    classes = ", ".join("-" if strip.label is None else str(strip.label) for strip in strips)
    return [f"## {title}", f"Classes from the top: {classes}.", f"![{title}](sheet_{name}.png)"]


def _scatter(teacher: nn.Module, data: Path) -> list[str]:
    """The features of both kinds of images beside those of real ones, and their distances within a class."""
    sets = {label: _images(teacher, data, name) for label, name in (*SCATTER.items(), ("real", "real"))}
    seen = {label: pooled_features(teacher, images.images) for label, images in sets.items()}
    middle = seen["real"][0].mean(dim=0)
    axes = torch.linalg.svd(seen["real"][0] - middle, full_matrices=False).Vh[:2]
    flat = {label: ((features - middle) @ axes.T, classes) for label, (features, classes) in seen.items()}
    distances = {label: within_class(teacher, images.images) for label, images in sets.items()}
    _draw_scatter(flat, distances)
    table = table_of(
        ["images", "distance within a class"], [[label, f"{value:.4f}"] for label, value in distances.items()]
    )
    return ["## ADI against MDC in feature space", table, "![Features of ADI and MDC images](scatter.svg)"]


def _draw_scatter(flat: Mapping[str, tuple[Tensor, Tensor]], distances: Mapping[str, float]) -> None:
    mpl.rcParams["svg.hashsalt"] = "scatter"
    figure, panels = plt.subplots(1, len(flat), figsize=(3.6 * len(flat), 3.6), sharex=True, sharey=True)
    options: dict[str, Any] = {"cmap": "tab10", "s": 9, "vmin": -0.5, "vmax": 9.5}
    for panel, (label, (points, classes)) in zip(panels, flat.items(), strict=True):
        panel.scatter(*points.T.numpy(), c=classes.numpy(), **options)
        panel.set(title=f"{label}: within a class {distances[label]:.3f}", xlabel="first direction")
    panels[0].set(ylabel="second direction")
    figure.savefig(PAGES / "scatter.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
