"""Plain noise in the teacher's input space: the baseline that every other method has to beat, and enough for timing.

No paper. Objective: none; every pixel is drawn on its own with mean 0 and variance 1, which is what the normalisation
of a teacher's input aims at.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.room import room_for_images
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

UNIT_VARIANCE_BOUND = 3.0**0.5  # a uniform variable on -b..b has variance b^2 / 3


@register_provider
class Noise(Provider):
    """Draw every pixel from one distribution with mean 0 and variance 1; the teacher is not looked at."""

    name: ClassVar[str] = "noise"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"

    distribution: Literal["gaussian", "uniform"] = cited(
        "gaussian", "this project: where the pixel-optimising methods start", "What a pixel is drawn from."
    )

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        random = torch.Generator().manual_seed(request.seed)
        images = room_for_images((request.num_samples, *facts.input_shape), request.checkpoint_folder)
        if self.distribution == "gaussian":
            images.normal_(generator=random)
        else:
            images.uniform_(generator=random).mul_(2.0).sub_(1.0).mul_(UNIT_VARIANCE_BOUND)
        return SyntheticSet(images, labels=None, soft_labels=None, provenance=self.provenance(facts, request))
