"""The loop of the IntraQ paper as it is told, without thought of speed; ``performance.py`` measures ours against it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from export_networks import images
from torch import Tensor, nn
from torch.nn import functional as F


def plain(network: nn.Module, side: int, batch: int, steps: int) -> Callable[[], None]:
    """The loop of the paper as it is told."""
    trainable = copy.deepcopy(network).eval().requires_grad_(requires_grad=True)
    pixels = images(side, batch).requires_grad_()
    labels, optimizer = torch.randint(10, (batch,)), torch.optim.Adam([pixels], lr=0.5)

    def run() -> None:
        with statistics_of(trainable) as gaps:
            for step in range(steps):
                gaps.clear()
                seen = torch.cat([cropped(image) for image in pixels.split(1)]) if step % 2 else pixels
                own = trainable(seen).softmax(dim=1).gather(1, labels.unsqueeze(1))
                loss = torch.stack(gaps).mean() + (own - 1).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        trainable.zero_grad()

    return run


@contextmanager
def statistics_of(network: nn.Module) -> Iterator[list[Tensor]]:
    """The distance of the moments at every BatchNorm layer from the stored ones, while the block runs."""
    gaps: list[Tensor] = []

    def compare(layer: Any, inputs: tuple[Tensor, ...]) -> None:  # noqa: ANN401 - a BatchNorm layer
        mean, variance = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3), correction=0)
        gaps.append((mean - layer.running_mean).square().mean() + (variance - layer.running_var).square().mean())

    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(compare) for layer in layers]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def cropped(image: Tensor) -> Tensor:
    """A random part of an image, at least half of its area, at the size of the whole."""
    height, width = image.shape[2:]
    share = math.sqrt(0.5 + 0.5 * torch.rand(()).item())
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = (int(torch.randint(room + 1, ())) for room in (height - tall, width - wide))
    part = image[:, :, top : top + tall, left : left + wide]
    return F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
