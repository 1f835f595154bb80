"""The contact sheet of the synthetic images: one PNG a row, so that a page can put words beside each."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.report.pictures import Pictures
from dfq_plugin.spreading import spread_evenly

COLUMNS = 8
ROWS = 4
CLASS_ROWS = 10
CELL_PIXELS = 96  # larger images are shrunk to about this, smaller ones enlarged by a whole factor
GAP_PIXELS = 4
ENOUGH = 3  # images of a class that make a row of its own worth while


@dataclass(frozen=True)
class Strip:
    """One row of the sheet.

    Attributes:
        label: The class that all its images are meant to show; None for images in the order of the set.
        png: The images side by side, with transparent gaps.
    """

    label: int | None
    png: bytes


def draw_contact_sheet(pictures: Pictures) -> list[Strip]:
    """Put images side by side: rows are classes where there are labels and several images a class.

    Args:
        pictures: At least one image.

    Returns:
        At most ten rows of classes, or four of images spread evenly over the set.
    """
    chosen = _plan(pictures)
    columns = max(len(indices) for _, indices in chosen)
    strips = []
    for label, indices in chosen:
        shown = pictures.images[torch.tensor(indices)].detach().cpu().float()
        cells = _to_cells(to_displayable(shown, pictures.mean, pictures.std))
        strips.append(Strip(label, _draw_strip(cells, columns)))
    return strips


def count_shown(pictures: Pictures) -> int:
    """How many images the sheet shows."""
    return sum(len(indices) for _, indices in _plan(pictures))


def to_displayable(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Bring images to 0..1 and three channels, (N, 3, H, W)."""
    images = images.nan_to_num()
    channels = images.shape[1]
    if mean is not None and std is not None and len(mean) == len(std) == channels:
        images = images * images.new_tensor(std).view(1, -1, 1, 1) + images.new_tensor(mean).view(1, -1, 1, 1)
    else:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp_min(1e-12)
    if channels != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return images.clamp(0.0, 1.0)


def _plan(pictures: Pictures) -> list[tuple[int | None, list[int]]]:
    """Which images make each row: its label and their indices."""
    labels = [] if pictures.labels is None else pictures.labels.tolist()
    counts = Counter(labels)
    classes = sorted(sorted(counts, key=lambda label: -counts[label])[:CLASS_ROWS])
    if classes and min(counts[label] for label in classes) >= ENOUGH:
        members = {label: [place for place, found in enumerate(labels) if found == label] for label in classes}
        return [(label, members[label][:COLUMNS]) for label in classes]
    spread = spread_evenly(len(pictures.images), COLUMNS * ROWS)
    return [(None, spread[start : start + COLUMNS]) for start in range(0, len(spread), COLUMNS)]


def _draw_strip(cells: NDArray[np.float64], columns: int) -> bytes:
    _, height, width, _ = cells.shape
    strip = np.zeros((height, columns * (width + GAP_PIXELS) - GAP_PIXELS, 4))
    for index, cell in enumerate(cells):
        left = index * (width + GAP_PIXELS)
        strip[:, left : left + width, :3] = cell
        strip[:, left : left + width, 3] = 1.0
    png = io.BytesIO()
    matplotlib.image.imsave(png, strip, format="png")
    return png.getvalue()


def _to_cells(images: Tensor) -> NDArray[np.float64]:
    """Resize to about ``CELL_PIXELS``, keeping the shape of a pixel; (N, 3, H, W) to (N, height, width, 3)."""
    longest = max(images.shape[-2:])
    if longest > CELL_PIXELS:
        images = F.interpolate(images, scale_factor=CELL_PIXELS / longest, mode="area")
    else:
        factor = CELL_PIXELS // longest
        images = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return images.permute(0, 2, 3, 1).double().numpy()
