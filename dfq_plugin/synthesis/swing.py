"""Swing convolution: strided convolutions that see their input through a random shift of one pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def swing_convolutions(teacher: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let every strided convolution read its input shifted by -1, 0 or 1 pixels in each direction, at random.

    A strided convolution never sees some of its input's pixels in the same place, so that images optimised through it
    have a grid. Each forward pass inside the block draws one shift per layer for the whole batch; what moves out is cut
    off and what moves in is the reflection. The teacher itself is left as it is: its layers are only hooked.

    Args:
        teacher: The network.
        generator: Where the random numbers come from, on the CPU.
    """

    def shift(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (shift_by_reflection(inputs[0], generator), *inputs[1:])

    with ExitStack() as hooks:
        for layer in teacher.modules():
            if isinstance(layer, nn.Conv2d) and any(stride != 1 for stride in layer.stride):
                hooks.callback(layer.register_forward_pre_hook(shift).remove)
        yield


def shift_by_reflection(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pad with the reflection, one pixel on each side, and cut back to size at a random place.

    Args:
        values: (N, C, H, W); a side of one pixel has no reflection and is not shifted along.
        generator: Where the random numbers come from, on the CPU.

    Returns:
        (N, C, H, W).
    """
    height, width = values.shape[2:]
    vertical, horizontal = (int(size > 1) for size in (height, width))
    top, left = (int(torch.randint(2 * pad + 1, (), generator=generator)) for pad in (vertical, horizontal))
    padded = F.pad(values, (horizontal, horizontal, vertical, vertical), mode="reflect")
    return padded[:, :, top : top + height, left : left + width]
