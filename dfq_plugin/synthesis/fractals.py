"""Coloured fractals: the attractors of random systems of contractions, drawn by many wandering points at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST_MAPS, MOST_MAPS = 2, 8
STRONGEST = 0.98  # a map with a singular value of 1 and more would let points escape
SETTLING = 16  # steps after which a point is on the attractor, as far as a picture shows
RECORDED = 32  # steps of each point that are drawn
MARGIN = 0.01  # share of the points that may lie beyond each side of the frame
SMALLEST_VIEW, LARGEST_VIEW = 0.4, 1.2  # side of the frame, relative to that of the image
SAMPLE = 4096  # points that decide on the frame
COLOURFULNESS = 0.4  # how much the channels vary on their own, relative to what they share
CONTRAST = 1.5  # of the fractals' colours, before they are bent into 0..1


@dataclass(frozen=True)
class MapSystem:
    """Affine maps x -> A x + b of the plane that a point follows at random: an iterated function system.

    Attributes:
        matrices: (K, 2, 2), contractions.
        offsets: (K, 2).
        probabilities: (K,), proportional to the area that a map leaves of a square.
        colours: (K, C) in 0..1, what a point takes on half of when it follows a map.
    """

    matrices: Tensor
    offsets: Tensor
    probabilities: Tensor
    colours: Tensor


def draw_fractal_image(
    shape: tuple[int, int, int], *, max_fractals: int, points_per_pixel: int, generator: torch.Generator
) -> Tensor:
    """Draw one to ``max_fractals`` fractals over soft clouds.

    Args:
        shape: (C, H, W) of the image.
        max_fractals: Largest number of fractals.
        points_per_pixel: Points drawn per fractal, relative to the pixels of the image.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (C, H, W) float32 in 0..1.
    """
    channels, height, width = shape
    image = draw_clouds(shape, generator)
    for _ in range(int(torch.randint(1, max_fractals + 1, (), generator=generator))):
        system = draw_system(channels, generator)
        walkers = max(1, points_per_pixel * height * width // RECORDED)
        points, colours = play_chaos_game(system, walkers, generator)
        image = _paint(image, _into_frame(points, generator), colours)
    return image


def draw_system(channels: int, generator: torch.Generator) -> MapSystem:
    """Draw a system whose singular values give an attractor that neither fills the plane nor is dust.

    The sum over maps of s1 + 2 s2, with s1 >= s2 the singular values, is uniform in (5 + K) / 2 .. (6 + K) / 2
    (after Anderson and Farrell, WACV 2022).

    Args:
        channels: Channels of a colour, C.
        generator: Where the random numbers come from, on the CPU.
    """

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    count = int(torch.randint(FEWEST_MAPS, MOST_MAPS + 1, (), generator=generator))
    singular = uniform(count, 2).sort(dim=1, descending=True).values
    wanted = (5 + count + uniform(1)) / 2
    singular = (singular * wanted / (singular[:, 0] + 2 * singular[:, 1]).sum()).clamp(max=STRONGEST)
    signs = torch.where(uniform(count, 2) < 0.5, -1.0, 1.0)
    turns = [_rotation(2 * torch.pi * uniform(count)) for _ in range(2)]
    matrices = turns[0] @ torch.diag_embed(singular * signs) @ turns[1]
    areas = singular.prod(dim=1)
    colours = _mostly_common((count,), channels, generator).mul(CONTRAST).sigmoid()
    return MapSystem(matrices, 2 * uniform(count, 2) - 1, areas / areas.sum(), colours)


def play_chaos_game(system: MapSystem, walkers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Let points follow the maps at random until they are on the attractor, then record where they are.

    Args:
        system: The maps.
        walkers: How many points wander at once.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        Places (walkers * RECORDED, 2) and colours (walkers * RECORDED, C).
    """
    points = torch.zeros(walkers, 2)
    colours = system.colours.mean(dim=0).expand(walkers, -1)
    steps = SETTLING + RECORDED
    chosen = torch.multinomial(system.probabilities, steps * walkers, replacement=True, generator=generator)
    places, shades = [], []
    for step, maps in enumerate(chosen.view(steps, walkers)):
        points = torch.einsum("pij,pj->pi", system.matrices[maps], points) + system.offsets[maps]
        colours = (colours + system.colours[maps]) / 2
        if step >= SETTLING:
            places.append(points)
            shades.append(colours)
    return torch.cat(places), torch.cat(shades)


def draw_clouds(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Draw soft clouds whose contrast falls with the fineness of their details; channels mostly vary together.

    Args:
        shape: (C, H, W) of the image.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (C, H, W) float32 in 0..1.
    """
    channels, height, width = shape

    clouds = _mostly_common((1, 1), channels, generator).movedim(-1, 0).expand(shape)
    cells, contrast = 1, 1.0
    while cells <= max(height, width):
        coarse = _mostly_common((1, cells + 1, cells + 1), channels, generator).movedim(-1, 1)
        clouds = clouds + contrast * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
        cells, contrast = cells * 2, contrast / 2
    return clouds.sigmoid()


def _mostly_common(size: tuple[int, ...], channels: int, generator: torch.Generator) -> Tensor:
    """Draw colours, (*size, C), whose channels mostly vary together, as those of photographs do."""
    common, own = (torch.randn(*size, last, generator=generator) for last in (1, channels))
    return common + COLOURFULNESS * own


def _rotation(angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)


def _into_frame(points: Tensor, generator: torch.Generator) -> Tensor:
    """Place the attractor somewhere in the image, whose corners are (0, 0) and (1, 1)."""
    limits = torch.quantile(points[:SAMPLE], torch.tensor([MARGIN, 1 - MARGIN]), dim=0)
    within = (points - limits[0]) / (limits[1] - limits[0]).clamp(min=1e-6)
    view = SMALLEST_VIEW + (LARGEST_VIEW - SMALLEST_VIEW) * torch.rand(2, generator=generator)
    return within * view + (1 - view) * torch.rand(2, generator=generator)


def _paint(image: Tensor, points: Tensor, colours: Tensor) -> Tensor:
    """Cover the image where points lie, the more the denser they do; (C, H, W)."""
    channels, height, width = image.shape
    columns, rows = (points * torch.tensor([width, height])).floor().long().unbind(dim=1)
    seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    cells = (rows * width + columns)[seen]
    density = torch.bincount(cells, minlength=height * width).float()
    total = torch.zeros(height * width, channels).index_add_(0, cells, colours[seen])
    paint = (total / density.clamp(min=1).unsqueeze(1)).T.view(channels, height, width)
    cover = (density.log1p() / density.max().log1p().clamp(min=1e-6)).view(1, height, width)
    return image * (1 - cover) + paint * cover
