"""Random views of images: crops, turns, shifts and mirror images. Gradients pass through all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3  # torchvision's RandomResizedCrop
MIRROR_PROBABILITY = 0.5  # of images that are mirrored at all
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
        angle: By how much the enlarged rectangle is turned about its centre, in radians, float64; None for not at all.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor
    angle: Tensor | None = None


def draw_crops(
    count: int,
    image_size: tuple[int, int],
    *,
    min_area: float,
    mirror_probability: float,
    generator: torch.Generator,
    max_angle: float = 0.0,
) -> Crops:
    """Draw a random rectangle for each image, distributed as in torchvision's RandomResizedCrop.

    Args:
        count: How many images, N.
        image_size: (H, W) in pixels.
        min_area: Smallest fraction of the image that a rectangle covers, in 0..1; the largest is 1.
        mirror_probability: Chance that an image is mirrored.
        generator: Where the random numbers come from, on the CPU.
        max_angle: Largest turn either way, in degrees; the angle is uniform below it.
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
    mirrored = draw(count) < mirror_probability
    angle = math.radians(max_angle) * (2 * draw(count) - 1) if max_angle else None
    return Crops(top, left, height, width, mirrored, angle)


def crop_and_resize(images: Tensor, crops: Crops) -> Tensor:
    """Enlarge a rectangle of each image to the full size, bilinearly, in one differentiable call.

    Equal to cutting the rectangle out and calling ``torch.nn.functional.interpolate`` with ``mode="bilinear"``,
    ``align_corners=False`` and ``antialias=False``; pixels outside of the rectangle are never read. Where a turned
    rectangle leaves a corner empty, its nearest pixel is repeated.

    Args:
        images: (N, C, H, W).
        crops: One rectangle per image, inside of it.

    Returns:
        (N, C, H, W).
    """
    rows, columns = images.shape[2:]
    y = (torch.arange(rows, dtype=torch.float64) + 0.5).view(1, -1, 1)
    x = (torch.arange(columns, dtype=torch.float64) + 0.5).view(1, 1, -1)
    x = torch.where(_per_image(crops.mirrored), columns - x, x)
    if crops.angle is not None:
        x, y = _turn(x - columns / 2, y - rows / 2, _per_image(crops.angle))
        x, y = x + columns / 2, y + rows / 2
    x = _sample_positions(x, crops.left, crops.width, columns).to(images)
    y = _sample_positions(y, crops.top, crops.height, rows).to(images)
    shape = (images.shape[0], rows, columns)
    grid = torch.stack([x.expand(shape), y.expand(shape)], dim=3)
    # "border" only catches rounding: no position lies outside of the image.
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter(images: Tensor, fraction: float, *, mirror: bool, generator: torch.Generator) -> Tensor:
    """Shift a batch by one random number of rows and columns; what leaves on one side comes back on the other.

    Args:
        images: (N, C, H, W).
        fraction: Largest shift either way, as a fraction of the side.
        mirror: Whether the batch is mirrored as well, with probability 1/2.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (N, C, H, W).
    """
    limits = [round(fraction * size) for size in images.shape[2:]]
    shifts = [int(torch.randint(-limit, limit + 1, (), generator=generator)) for limit in limits]
    shifted = images.roll(shifts, dims=(2, 3))
    return shifted.flip(3) if mirror and torch.rand((), generator=generator).item() < MIRROR_PROBABILITY else shifted


def _central_size(rows: int, columns: int) -> tuple[int, int]:
    """Largest rectangle, as (height, width), of an allowed aspect."""
    if columns / rows < MIN_ASPECT:
        return round(columns / MIN_ASPECT), columns
    if columns / rows > MAX_ASPECT:
        return rows, round(rows * MAX_ASPECT)
    return rows, columns


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y


def _sample_positions(outputs: Tensor, first: Tensor, length: Tensor, size: int) -> Tensor:
    """Where outputs, in 0..``size``, sample ``length`` pixels from ``first`` on; -1 and 1 are the image's edges."""
    inside = (outputs * (_per_image(length) / size) - 0.5).clamp(min=0)
    pixel = _per_image(first) + torch.minimum(inside, _per_image(length) - 1)
    return (2 * pixel + 1) / size - 1
