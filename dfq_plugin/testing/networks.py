"""A small network that is quick to run and yet has everything that the methods look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEED = 20240501
CALIBRATION_IMAGES = 64


class TinyNetwork(nn.Module):
    """Two convolutions with BatchNorm, and a classifier on their average.

    Args:
        num_classes: Width of the output.
        channels: Channels of the input.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits, (N, num_classes), of images, (N, C, H, W)."""
        low = self.relu1(self.bn1(self.conv1(images)))
        high = self.relu2(self.bn2(self.conv2(low)))
        logits: Tensor = self.fc(self.pool(high).flatten(start_dim=1))
        return logits


def tiny_teacher(num_classes: int = 4, channels: int = 3, size: int = 8) -> TinyNetwork:
    """Make a small BatchNorm network in eval mode, the same one every time.

    Its BatchNorm statistics are those of real activations, its affine parameters are not 1 and 0, and every class is
    the answer to some image, so that losses on statistics, labels and features all have something to find.

    Args:
        num_classes: Width of the output.
        channels: Channels of the input.
        size: Height and width of the input.
    """
    random = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the caller's generator
        network = TinyNetwork(num_classes, channels)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if name.startswith("bn"):
                parameter.copy_(noise * 0.2 + (1.0 if name.endswith("weight") else 0.1))
            else:
                parameter.copy_(noise * (2.0 / parameter[0].numel()) ** 0.5)
        network.fc.weight.mul_(4.0)
        images = _make_images(CALIBRATION_IMAGES, channels, size, random)
        _collect_statistics(network, images)
        network.fc.bias.sub_(_rounded(network.eval()(images).mean(dim=0)))
    return network


def _make_images(count: int, channels: int, size: int, random: torch.Generator) -> Tensor:
    """Make smooth coloured patches, (N, C, H, W): their statistics differ from those of white noise."""
    noise = torch.randn(count, channels, size, size, generator=random)
    colour = torch.randn(count, channels, 1, 1, generator=random)
    return nn.functional.avg_pool2d(noise, kernel_size=3, stride=1, padding=1) * 2.0 + colour


def _collect_statistics(network: TinyNetwork, images: Tensor) -> None:
    norms = (network.bn1, network.bn2)
    for norm in norms:
        norm.momentum = 1.0  # keeps exactly the statistics of the one pass below
    network.train()(images)
    for norm in norms:
        norm.momentum = 0.1
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(_rounded(statistic))


def _rounded(values: Tensor) -> Tensor:
    """Drop the digits that depend on the number of threads, so that the network is the same everywhere."""
    return (values * 1000.0).round() / 1000.0
