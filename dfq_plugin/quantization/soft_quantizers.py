"""Quantizers that gradients can move: rounding of weights learned bit by bit, activations rounded at random.

They take the place of NNCF's quantizers while a block is reconstructed. Papers as in ``reconstruction.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfq_plugin.quantization.squant import on_grid
from dfq_plugin.straight_through import round_to_grid
from dfq_plugin.student import Grid

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # AdaRound's rectified sigmoid reaches 0 and 1 at finite logits
BITS, WORD = 8, 8  # of a byte, and bytes of a random number


class SoftRounding(nn.Module):
    """Stands for one weight: its codes are floor(weight / step) plus a learned number between 0 and 1, its step moves.

    The integer part is fixed when the module is made, so that step and rounding can be learned side by side. Learning
    starts halfway between the weight and its rounding by SQuant, so that bits of which the images say nothing end up
    where they cancel the error of others.

    Args:
        weight: in float.
        grid: its grid, symmetric, one step for all or for each channel.
    """

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        super().__init__()
        self._first_step = grid.step.reshape([-1 if axis == grid.axis else 1 for axis in range(weight.ndim)])
        scaled = weight.detach() / self._first_step
        self._floor = scaled.floor()
        self._low, self._high = grid.low, grid.high
        balanced = (on_grid(weight, grid) / self._first_step - self._floor).round().clamp(0, 1)
        start = (scaled - self._floor + balanced) / 2
        share = (start - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
        self.logits = nn.Parameter(share.logit())
        self.step_ratio = nn.Parameter(torch.ones_like(self._first_step))

    def forward(self, _: Tensor) -> Tensor:
        """The weight as it stands, whatever is handed in."""
        return self._step() * (self._floor + self._fraction()).clamp(self._low, self._high)

    def indecision(self, sharpness: float) -> Tensor:
        """How far the fractions are from 0 or 1: the sum of 1 - |2 h - 1|^sharpness."""
        return (1 - (2 * self._fraction() - 1).abs().pow(sharpness)).sum()

    @torch.no_grad()
    def result(self) -> tuple[Tensor, Tensor]:
        """The step, shaped to the weight, and the codes, every fraction rounded to 0 or 1."""
        return self._step(), (self._floor + (self.logits >= 0)).clamp(self._low, self._high)

    def _step(self) -> Tensor:
        return self._first_step * self.step_ratio.abs()

    def _fraction(self) -> Tensor:
        stretched = self.logits.sigmoid() * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
        return stretched.clamp(0.0, 1.0)


class DroppingQuantizer(nn.Module):
    """Rounds activations to a grid whose step is learned; each element stays in float with some probability (QDrop).

    Args:
        grid: one step per tensor; the zero point stays.
        drop: the probability.
        random: draws what is dropped.
    """

    def __init__(self, grid: Grid, drop: float, random: torch.Generator) -> None:
        super().__init__()
        zero = int(grid.zero_point)
        self._low, self._high = grid.low - zero, grid.high - zero
        self._first_step = grid.step
        self.step_ratio = nn.Parameter(torch.ones_like(grid.step))
        self._drop, self._random = drop, random

    def forward(self, values: Tensor) -> Tensor:
        """Round ``values``, any shape."""
        kept = random_mask(values, 1.0 - self._drop, self._random) if self._drop > 0 else None
        return round_to_grid(values, self._step(), (self._low, self._high), kept)

    @torch.no_grad()
    def limits(self) -> tuple[float, float]:
        """The values of the lowest and of the highest code."""
        step = self._step().item()
        return self._low * step, self._high * step

    def _step(self) -> Tensor:
        return self._first_step * self.step_ratio.abs()


def random_mask(like: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """1 with this probability (in steps of 1/256), else 0, as floats in the shape and layout of ``like``.

    A random byte decides over each element: to draw a float for each would cost more than the convolutions.
    """
    words = torch.empty(-(-like.numel() // WORD), dtype=torch.int64, device=like.device)
    draws = words.random_(-(2**63), None, generator=random).view(torch.uint8)[: like.numel()]
    threshold = round((1.0 - probability) * 2**BITS)
    mask = draws.float().sub_(threshold - 1).clamp_(0.0, 1.0)  # bytes at or above the threshold
    return mask.as_strided(like.shape, torch.empty_like(like).stride())
