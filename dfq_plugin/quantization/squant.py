"""SQuant: round weights so that their errors cancel within each kernel and each output channel. Needs no data at all.

Paper: Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022,
arXiv:2202.07471. Written from the published procedure; the released sources were not used.

With x the weights in units of the quantization step, q their integer codes and e = q - x, three sums are made small in
turn: each |e| (element), |sum of e over a kernel| (kernel), |sum of e over an output channel| (channel). Rounding to
nearest settles the first; the other two are settled by moving single codes to their other neighbour, those first whose
rounding was closest to a tie. Afterwards every kernel's sum is at most 1 and every channel's at most 0.5 in magnitude,
unless codes at the end of the range are in the way.

Deviations: a flip that would leave the code range is never made, so no final clamp can undo the balance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfq_plugin.student import Grid, Student


@torch.no_grad()
def round_weights(student: Student) -> None:
    """Put every quantized weight of a student on its grid, rounded by SQuant; its quantizers then change it no more."""
    for layer in student.layers:
        if layer.weight_quantizer is not None:
            weight = student.network.get_parameter(layer.weight)
            weight.copy_(on_grid(weight, student.grid(student.site(layer.weight_quantizer))))


def on_grid(weight: Tensor, grid: Grid) -> Tensor:
    """A weight of any shape, rounded to its grid by SQuant; channels are on the grid's axis, or else on the first."""
    rows = weight.movedim(grid.axis or 0, 0)
    step = grid.step.reshape(-1, *[1] * (rows.ndim - 1))
    kernels = (rows / step).reshape(rows.shape[0], rows.shape[1], -1)
    low, high = (limit - grid.zero_point.reshape(-1, 1, 1).to(kernels) for limit in (grid.low, grid.high))
    codes = squant_codes(kernels, low, high).reshape(rows.shape)
    return (codes * step).movedim(0, grid.axis or 0)


def squant_codes(scaled: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Round weights to integer codes by SQuant.

    Args:
        scaled: weights divided by their step, (out, in, kernel) with kernel = kH * kW, 1 for linear layers.
        low: smallest code, (out, 1, 1) where channels differ.
        high: largest code, likewise.

    Returns:
        Codes as floats, (out, in, kernel).
    """
    codes = scaled.round().clamp_(torch.as_tensor(low), torch.as_tensor(high))
    errors = codes - scaled
    steps = movable(codes, errors, low, high)
    if scaled.shape[2] == 1:
        rows = errors.squeeze(2)
        return codes + choose(rows, steps.squeeze(2), rows.sum(dim=1, keepdim=True)).moves().reshape(codes.shape)
    kernels = errors.flatten(0, 1)
    chosen = choose(kernels, steps.flatten(0, 1), kernels.sum(dim=1, keepdim=True))
    moves = chosen.moves()
    element, step = chosen.next_move()
    left = (kernels + moves).gather(1, element).reshape(codes.shape[:2])
    total = errors.sum(dim=(1, 2)).unsqueeze(1) + moves.reshape(len(codes), -1).sum(dim=1, keepdim=True)
    last = choose(left, step.reshape(left.shape), total).moves()
    return codes + moves.scatter_add_(1, element, last.reshape(-1, 1)).reshape(codes.shape)


def movable(codes: Tensor, errors: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """For each code the step (+1, -1 or 0) to the neighbour on the other side of its weight; 0 where there is none."""
    direction = -errors.sign()
    target = codes + direction
    return direction.masked_fill_((target < low) | (target > high), 0.0)


@dataclass(frozen=True)
class Choice:
    """Which elements of each row move, and which one would be next; the most pressing elements only.

    Attributes:
        errors: (rows, elements).
        total: the sum to be brought to at most one half, (rows, 1).
        order: the most pressing elements of each row, most pressing first, (rows, most).
        able: whether they can move in the direction that the row needs, (rows, most).
    """

    errors: Tensor
    total: Tensor
    order: Tensor
    able: Tensor

    def moves(self) -> Tensor:
        """+1, -1 or 0 for each element, (rows, elements)."""
        rank = torch.arange(self.order.shape[1], device=self.order.device)
        moves = -self.total.sign() * (self.able & (rank < self.total.abs().round()))
        return torch.zeros_like(self.errors).scatter_(1, self.order, moves)

    def next_move(self) -> tuple[Tensor, Tensor]:
        """The one element of each row that a later stage may move, (rows, 1), and its step.

        After an overshoot the last element moved may be moved back, else the next in line may be moved the same way.
        """
        count = self.total.abs().round()
        overshoot = (count >= self.total.abs()) & (count > 0)
        rank = torch.where(overshoot, count - 1, count).long().clamp_(max=self.order.shape[1] - 1)
        step = torch.where(overshoot, self.total.sign(), -self.total.sign()) * self.able.gather(1, rank)
        return self.order.gather(1, rank), step


def choose(errors: Tensor, steps: Tensor, total: Tensor) -> Choice:
    """Find those elements whose moves bring ``total`` to at most one half with the smallest harm.

    Args:
        errors: (rows, elements).
        steps: that each element may take, same shape.
        total: (rows, 1).
    """
    priority = torch.where(steps == -total.sign(), errors.abs(), 0.0)
    most = min(int(total.abs().max().round()) + 1, errors.shape[1])
    pressing, order = priority.topk(most, dim=1)
    return Choice(errors, total, order, pressing > 0)
