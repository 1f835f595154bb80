"""The synthetic images as a report takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """Images to show.

    Attributes:
        images: (N, C, H, W), in the teacher's normalised input space.
        labels: (N,), the class that each is meant to show; None where there are none.
        mean: Per channel, of pixels in 0..1, to show the images in their own colours; without it every image is
            stretched from its minimum to its maximum.
        std: Likewise.
    """

    images: Tensor
    labels: Tensor | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
