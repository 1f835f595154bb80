"""What the pixels are before the first step: noise, as published, or pictures that are drawn.

Drawn pictures have what noise takes hundreds of steps to get: outlines, textures and shading. From there a few steps
are enough to give an image the statistics, and a hint of the class, that are wanted. Whoever changes what is drawn
raises the revision of the providers that start from it as well, that of ``BatchNormProvider``.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from dfq_plugin.providers.dead_leaves import DeadLeaves
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.synthesis.drawn_provider import DrawnProvider
from dfq_plugin.teacher import ModelFacts

InitialImages = Literal["gaussian", "dead_leaves", "fractal"]
MEANING: Final = "What the images start from: 'gaussian' is N(0, 1), the others what the providers of that name draw."
DRAWN: Final[dict[str, type[DrawnProvider]]] = {"dead_leaves": DeadLeaves, "fractal": Fractal}


def initial_images(kind: InitialImages, count: int, facts: ModelFacts, generator: torch.Generator) -> Tensor:
    """The images before the first step, (N, C, H, W), normalised as the teacher expects its input.

    Args:
        kind: What they are.
        count: How many, N.
        facts: The shape of an image, and mean and std of the input where they are known.
        generator: Where the random numbers come from, on the CPU.
    """
    if kind == "gaussian":
        return torch.randn((count, *facts.input_shape), generator=generator)
    provider = DRAWN[kind]()
    return torch.stack([provider.draw_input(facts, generator) for _ in range(count)])
