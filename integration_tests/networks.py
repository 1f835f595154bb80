"""Tiny networks that hold, between them, every construct that the exporter has to treat; all at 3 x 16 x 16 or less."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (3, 16, 16)
CLASSES = 10


class ResidualNetwork(nn.Module):
    """A residual block whose shortcut has no parameters: a strided slice and channels of zeros; pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        start = F.relu(self.stem_norm(self.stem(images)))
        shortcut = F.pad(start[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        body = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(start)))))
        logits: Tensor = self.fc(torch.flatten(self.pool(F.relu(body + shortcut)), 1))
        return logits


class MobileNetwork(nn.Module):
    """Depthwise convolutions with ReLU6, a linear bottleneck added to its input, and a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        start = self.stem(images)
        added = start + self.project(self.depthwise(self.expand(start)))
        logits: Tensor = self.fc(self.head(added).mean((2, 3)))
        return logits


class PlainNetwork(nn.Module):
    """Max-pooling, a Flatten of a whole feature map, and a Linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.pool1, self.pool2 = nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(12 * 4 * 4, CLASSES, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        low = self.pool1(F.relu(self.norm1(self.conv1(images))))
        high = self.pool2(F.relu(self.norm2(self.conv2(low))))
        logits: Tensor = self.fc(self.flatten(high))
        return logits


class SamePaddedNetwork(nn.Module):
    """Strided convolutions padded more on one side than on the other, as TensorFlow's "same" does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 5, stride=2, groups=8, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        low = F.relu6(self.norm1(self.conv1(F.pad(images, (0, 1, 0, 1)))))
        middle = F.relu6(self.norm2(self.conv2(F.pad(low, (1, 2, 1, 2)))))
        high = F.relu(self.norm3(self.conv3(middle)))
        logits: Tensor = self.fc(high.mean((2, 3)))
        return logits


class BareNetwork(nn.Module):
    """No BatchNorm anywhere: nothing for methods that match its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.conv(images)).mean((2, 3)))
        return logits


def residual() -> nn.Module:
    return _trained_like(ResidualNetwork)


def mobile() -> nn.Module:
    return _trained_like(MobileNetwork)


def plain() -> nn.Module:
    return _trained_like(PlainNetwork)


def same_padded() -> nn.Module:
    return _trained_like(SamePaddedNetwork)


def sequential() -> nn.Module:
    """The top level is ``nn.Sequential``, which NNCF cannot hook."""
    return _trained_like(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )
    )


def bare() -> nn.Module:
    return _trained_like(BareNetwork)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "mobile": mobile,
    "plain": plain,
    "same_padded": same_padded,
    "sequential": sequential,
}


def images(count: int, seed: int = 1) -> Tensor:
    """Smooth coloured patches, (N, 3, 16, 16), in the networks' input space."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *SHAPE, generator=random)
    colour = torch.randn(count, SHAPE[0], 1, 1, generator=random)
    return F.avg_pool2d(noise, 3, stride=1, padding=1) * 2 + colour


def _trained_like(make: Callable[[], nn.Module]) -> nn.Module:
    """Random weights; BatchNorm layers that hold the statistics of real activations; classes that all occur."""
    random = torch.Generator().manual_seed(7)
    network = make()
    with torch.no_grad():
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100.0
            parameter.copy_(noise * (2.0 / fan_in) ** 0.5)
        for norm in norms:
            norm.weight.add_(1.0)
            norm.momentum = None  # the plain average over all that passes, here one batch
        network.train()(images(64, seed=0))
        *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        mean = network.eval()(images(64, seed=0)).mean(dim=0)
        if last.bias is not None:
            last.bias.sub_(mean)
    return network
