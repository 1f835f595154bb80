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
from torch import Tensor

from dfq_plugin.providers.base import cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.drawn_provider import DrawnProvider
from dfq_plugin.synthesis.fractals import draw_fractal_image


@register_provider
class Fractal(DrawnProvider):
    """Draw coloured fractals over soft clouds."""

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

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        return draw_fractal_image(
            shape, max_fractals=self.max_fractals, points_per_pixel=self.points_per_pixel, generator=generator
        )
