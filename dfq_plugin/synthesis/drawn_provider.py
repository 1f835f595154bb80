"""What providers have in common whose images are drawn, without a look at the teacher."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from dfq_plugin.progress import track
from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.room import room_for_images
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

GREY, SPREAD = 0.5, 0.25  # mean and std of the pixels of photographs, roughly, where the teacher's are not known


class DrawnProvider(Provider):
    """Draws one image after the other and normalises them as the teacher expects its input.

    Milliseconds an image, so finished images are not kept for a resumed run. An image depends on the seed and its place
    in the set only.
    """

    @abc.abstractmethod
    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw one image, (C, H, W) in 0..1; every random number comes from the generator."""

    def draw_input(self, facts: ModelFacts, generator: torch.Generator) -> Tensor:
        """Draw one image, (C, H, W), normalised as the teacher expects its input."""
        mean, std = (
            torch.tensor(default if known is None else known).view(-1, 1, 1)
            for known, default in ((facts.mean, [GREY]), (facts.std, [SPREAD]))
        )
        return (self.draw(facts.input_shape, generator) - mean) / std

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        images = room_for_images((request.num_samples, *facts.input_shape), request.checkpoint_folder)
        for index in track(range(request.num_samples), f"Drawing {request.num_samples} images ({self.name})"):
            images[index] = self.draw_input(facts, batch_generator(request.seed, index))
        return SyntheticSet(images, None, None, self.provenance(facts, request))
