"""Draw leaves that fall on each other: pictures with occlusion, outlines and textures, from no data and no network.

Papers: Lee, Mumford and Huang, "Occlusion Models for Natural Images", IJCV 41, 2001 (pictures of objects that hide each
other have the statistics of photographs); Baradad et al., "Learning to See by Looking at Noise", NeurIPS 2021,
arXiv:2106.05963 (networks trained on such pictures, with shapes and textures, and on noise with the spectrum of
photographs).
Written from the published procedures; the released sources were not used.
Objective: none; the teacher is not looked at, so that any network can be calibrated, also one without BatchNorm.

Deviations:
    D1  the density of a leaf's radius r falls with r^-2 instead of r^-3, and few leaves fall, on a textured ground:
        larger objects, and a picture of 224 pixels in a fifth of a second.
    D2  ellipses, rectangles and stars with bent edges; Baradad et al. take discs, squares and rotated polygons.
    D3  every leaf has a texture and a light of its own; its edge is more or less sharp, and some pictures are blurred.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dfq_plugin.providers.base import cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.dead_leaves import FEWEST_LEAVES, draw_dead_leaves
from dfq_plugin.synthesis.drawn_provider import DrawnProvider


@register_provider
class DeadLeaves(DrawnProvider):
    """Draw textured leaves that hide each other."""

    name: ClassVar[str] = "dead_leaves"
    paper: ClassVar[str] = (
        "Occlusion Models for Natural Images, IJCV 2001; Learning to See by Looking at Noise, NeurIPS 2021, "
        "arXiv:2106.05963"
    )
    needs: ClassVar[str] = "nothing; better with the mean and std that the teacher was trained with"

    max_leaves: int = cited(
        40, "this project", f"Largest number of leaves in an image; the smallest is {FEWEST_LEAVES}.", ge=FEWEST_LEAVES
    )

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        return draw_dead_leaves(shape, max_leaves=self.max_leaves, generator=generator)
