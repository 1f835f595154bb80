"""Draw coloured fractals: pictures with edges, textures and objects that come from no data and no network.

Papers: Kataoka et al., "Pre-training without Natural Images", ACCV 2020, arXiv:2101.08515 (random iterated function
systems as images); Anderson and Farrell, "Improving Fractal Pre-training", WACV 2022, arXiv:2110.03091 (how to draw
systems that give good pictures). OpenVINO's data-free engine calibrated on such images.
Written from the published procedures; the released sources were not used.
Objective: none; the teacher is not looked at, so that any network can be calibrated, also one without BatchNorm.

Deviations:
    D1  colours are those of the maps that a point has followed, not a network's; their channels mostly vary together.
    D2  the background is soft clouds, and an image holds up to three fractals of their own size and shape.
    D3  singular values are scaled to the wanted sum and cut at 0.98 instead of being drawn under the constraint; the
        bounds of that sum are from memory of the paper, not verified.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from dfq_plugin.progress import track
from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.room import room_for_images
from dfq_plugin.synthesis.fractals import draw_fractal_image
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

GREY, SPREAD = 0.5, 0.25  # mean and std of the pixels of photographs, roughly, where the teacher's are not known


@register_provider
class Fractal(Provider):
    """Draw coloured fractals over soft clouds and normalise them as the teacher expects its input.

    Milliseconds an image, so finished images are not kept for a resumed run. An image depends on the seed and its place
    in the set only.
    """

    name: ClassVar[str] = "fractal"
    paper: ClassVar[str] = (
        "Pre-training without Natural Images, ACCV 2020, arXiv:2101.08515; Improving Fractal Pre-training, WACV 2022, "
        "arXiv:2110.03091"
    )
    needs: ClassVar[str] = "nothing; better with the mean and std that the teacher was trained with"

    max_fractals: int = cited(3, "this project", "Largest number of fractals in an image; the smallest is 1.", ge=1)
    points_per_pixel: int = cited(
        8, "this project", "Points that draw a fractal, relative to the pixels of the image.", ge=1
    )

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        mean, std = (
            torch.tensor(default if known is None else known).view(-1, 1, 1)
            for known, default in ((facts.mean, [GREY]), (facts.std, [SPREAD]))
        )
        images = room_for_images((request.num_samples, *facts.input_shape), request.checkpoint_folder)
        for index in track(range(request.num_samples), f"Drawing {request.num_samples} images (fractal)"):
            drawn = draw_fractal_image(
                facts.input_shape,
                max_fractals=self.max_fractals,
                points_per_pixel=self.points_per_pixel,
                generator=batch_generator(request.seed, index),
            )
            images[index] = (drawn - mean) / std
        return SyntheticSet(images, None, None, self.provenance(facts, request))
