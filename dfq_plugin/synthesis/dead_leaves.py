"""Dead leaves: textured shapes of all sizes that fall on each other; the last ones hide those before."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.synthesis.fractals import COLOURFULNESS

FEWEST_LEAVES = 4
SMALLEST, LARGEST = 0.02, 0.5  # radius of a leaf, relative to the longer side
STRETCH = 0.7  # largest logarithm of the ratio of a leaf's axes, halved
SOFTEST, SHARPEST = 1.2, -0.7  # logarithms of the width of an edge, in pixels
FLATTEST, ROUGHEST = 1.8, 0.8  # exponents of a texture's spectrum; photographs have about 1
BLURRED = 0.4  # share of the pictures that are blurred a little


def draw_dead_leaves(shape: tuple[int, int, int], *, max_leaves: int, generator: torch.Generator) -> Tensor:
    """Let ``FEWEST_LEAVES`` to ``max_leaves`` leaves fall on a textured ground.

    Args:
        shape: (C, H, W) of the image.
        max_leaves: Largest number of leaves.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (C, H, W) float32 in 0..1.
    """
    uniform = _uniform(generator)
    ground = uniform(0.5, 1.5) * draw_texture(shape, uniform(ROUGHEST, FLATTEST), generator)
    image = torch.sigmoid(ground + _colour(shape[0], generator))
    for _ in range(int(torch.randint(FEWEST_LEAVES, max_leaves + 1, (), generator=generator))):
        cover, light = draw_leaf(shape[1:], generator)
        texture = math.exp(uniform(-2.0, 0.2)) * draw_texture(shape, uniform(ROUGHEST, FLATTEST), generator)
        leaf = torch.sigmoid(texture + light + _colour(shape[0], generator))
        image = image.lerp(leaf, cover.expand_as(image))
    if uniform(0.0, 1.0) < BLURRED:
        image = F.avg_pool2d(F.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    return image


def draw_leaf(size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw where a leaf lies and how the light falls on it.

    Args:
        size: (H, W) of the image.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        Its cover, (H, W) in 0..1, 1 inside of it, and its light, (H, W), which falls or rises across it.
    """
    uniform = _uniform(generator)
    height, width = size
    share = uniform(0.0, 1.0)
    radius = max(size) / ((1 - share) / SMALLEST + share / LARGEST)  # its density falls with the square
    rows = torch.arange(height).view(-1, 1) + 0.5 - uniform(0, height)
    columns = torch.arange(width).view(1, -1) + 0.5 - uniform(0, width)
    turn, stretch = uniform(0, math.pi), math.exp(uniform(-STRETCH, STRETCH))
    along = (columns * math.cos(turn) + rows * math.sin(turn)) / stretch
    across = (rows * math.cos(turn) - columns * math.sin(turn)) * stretch
    edge = math.exp(uniform(SHARPEST, SOFTEST))
    cover = torch.sigmoid(-_distance(along, across, radius, generator) / edge)
    return cover, uniform(-0.5, 0.5) * (along + across) / radius


def _distance(along: Tensor, across: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """How far places are from the edge of an ellipse, a rectangle or a star, roughly; negative inside of it."""
    from_centre = (along.square() + across.square()).sqrt()
    kind = int(torch.randint(3, (), generator=generator))
    if kind == 0:
        return from_centre - radius
    if kind == 1:
        return torch.maximum(along.abs(), across.abs()) - 0.85 * radius
    points, start = int(torch.randint(2, 7, (), generator=generator)), _uniform(generator)(0, 2 * math.pi)
    angle = torch.atan2(across, along)
    bent = 0.3 * torch.sin(points * angle + start) + 0.1 * torch.sin(3 * points * angle)
    return from_centre - radius * (1 + bent)


def draw_texture(shape: tuple[int, int, int], exponent: float, generator: torch.Generator) -> Tensor:
    """Draw noise whose amplitude falls with the frequency to the power of ``exponent``; channels mostly vary together.

    Args:
        shape: (C, H, W).
        exponent: 0 is white noise.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (C, H, W) of mean 0 and standard deviation about 1; zeros for a single pixel.
    """
    channels, height, width = shape
    frequency = (torch.fft.fftfreq(height).view(-1, 1).square() + torch.fft.rfftfreq(width).view(1, -1).square()).sqrt()
    amplitude = frequency.clamp(min=1 / max(height, width)).pow(-exponent)
    amplitude[0, 0] = 0.0
    white = torch.randn(channels + 1, height, width, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(height, width))
    noise = noise / noise.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-6)
    texture: Tensor = (noise[:1] + COLOURFULNESS * noise[1:]) / math.hypot(1, COLOURFULNESS)
    return texture


def _colour(channels: int, generator: torch.Generator) -> Tensor:
    """What is added to a shape's texture, (C, 1, 1): its brightness and its tint."""
    return torch.randn(1, 1, 1, generator=generator) + 0.6 * torch.randn(channels, 1, 1, generator=generator)


def _uniform(generator: torch.Generator) -> Callable[[float, float], float]:
    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    return draw
