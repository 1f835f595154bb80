"""Small networks that give no classes: a map of them, in a dictionary or as a tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfq_plugin.testing import tiny_teacher


class Segmenter(nn.Module):
    """The convolutions of the tiny classifier with a 1x1 convolution for every place, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_teacher()
        self.head = nn.Conv2d(16, 5, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, self.head.weight.numel()).sin().view_as(self.head.weight))
            self.head.bias.zero_()  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low = self.body.relu1(self.body.bn1(self.body.conv1(images)))
        return {"out": self.head(self.body.relu2(self.body.bn2(self.body.conv2(low))))}


class Map(nn.Module):
    """A segmenter that gives its tensor alone, as ``dfq.quantize`` wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.segmenter = Segmenter()

    def forward(self, images: Tensor) -> Tensor:
        return self.segmenter(images)["out"]  # type: ignore[no-any-return]
