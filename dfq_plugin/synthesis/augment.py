"""Random crops that gradients pass through: local object reinforcement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3  # torchvision's RandomResizedCrop
ATTEMPTS = 10  # as many as torchvision makes before it takes the central crop


@dataclass(frozen=True)
class Crops:
    """A rectangle of pixels for each image, and whether to mirror it; every field is (N,) on the CPU.

    Attributes:
        top: First row, int64.
        left: First column, int64.
        height: Rows, int64.
        width: Columns, int64.
        mirrored: Whether left and right change places, bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def draw_crops(
    count: int, image_size: tuple[int, int], *, min_area: float, mirror_probability: float, generator: torch.Generator
) -> Crops:
    """Draw a random rectangle for each image, distributed as in torchvision's RandomResizedCrop.

    Args:
        count: How many images, N.
        image_size: (H, W) in pixels.
        min_area: Smallest fraction of the image that a rectangle covers, in 0..1; the largest is 1.
        mirror_probability: Chance that an image is mirrored.
        generator: Where the random numbers come from, on the CPU.
    """
    rows, columns = image_size

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    area = rows * columns * (min_area + (1 - min_area) * draw(count, ATTEMPTS))
    aspect = torch.exp(math.log(MIN_ASPECT) + math.log(MAX_ASPECT / MIN_ASPECT) * draw(count, ATTEMPTS))
    width, height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (width > 0) & (width <= columns) & (height > 0) & (height <= rows)
    found = fits.any(dim=1)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first of equal maxima
    central_height, central_width = _central_size(rows, columns)
    height = torch.where(found, height.gather(1, first).squeeze(1), central_height)
    width = torch.where(found, width.gather(1, first).squeeze(1), central_width)
    top = torch.where(found, draw(count) * (rows - height + 1), (rows - height) / 2).long()
    left = torch.where(found, draw(count) * (columns - width + 1), (columns - width) / 2).long()
    return Crops(top, left, height, width, draw(count) < mirror_probability)


def crop_and_resize(images: Tensor, crops: Crops) -> Tensor:
    """Enlarge a rectangle of each image to the full size, bilinearly, in one differentiable call.

    Equal to cutting the rectangle out and calling ``torch.nn.functional.interpolate`` with ``mode="bilinear"``,
    ``align_corners=False`` and ``antialias=False``; pixels outside of the rectangle are never read.

    Args:
        images: (N, C, H, W).
        crops: One rectangle per image, inside of it.

    Returns:
        (N, C, H, W).
    """
    rows, columns = images.shape[2:]
    y = _sample_positions(crops.top, crops.height, rows)
    x = _sample_positions(crops.left, crops.width, columns)
    x = torch.where(crops.mirrored.unsqueeze(1), x.flip(1), x)
    x, y = x.to(images), y.to(images)
    shape = (images.shape[0], rows, columns)
    grid = torch.stack([x.unsqueeze(1).expand(shape), y.unsqueeze(2).expand(shape)], dim=3)
    # "border" only catches rounding: no position lies outside of the image.
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _central_size(rows: int, columns: int) -> tuple[int, int]:
    """Largest rectangle, as (height, width), of an allowed aspect."""
    if columns / rows < MIN_ASPECT:
        return round(columns / MIN_ASPECT), columns
    if columns / rows > MAX_ASPECT:
        return rows, round(rows * MAX_ASPECT)
    return rows, columns


def _sample_positions(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Where ``size`` outputs sample ``length`` pixels from ``first`` on, (N, size), with -1 and 1 the image's edges."""
    outputs = torch.arange(size, dtype=torch.float64) + 0.5
    inside = (outputs * (length.unsqueeze(1) / size) - 0.5).clamp(min=0)
    pixel = first.unsqueeze(1) + torch.minimum(inside, length.unsqueeze(1) - 1)
    return (2 * pixel + 1) / size - 1
