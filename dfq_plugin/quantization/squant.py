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

import torch
from torch import Tensor

from dfq_plugin.student import Student


@torch.no_grad()
def round_weights(student: Student) -> None:
    """Put every quantized weight of a student on its grid, rounded by SQuant; its quantizers then change it no more."""
    for layer in student.layers:
        if layer.weight_quantizer is None:
            continue
        grid = student.grid(student.site(layer.weight_quantizer))
        weight = student.network.get_parameter(layer.weight)
        rows = weight.movedim(grid.axis or 0, 0)
        step = grid.step.reshape(-1, *[1] * (rows.ndim - 1))
        kernels = (rows / step).reshape(rows.shape[0], rows.shape[1], -1)
        codes = squant_codes(kernels, grid.low, grid.high).reshape(rows.shape)
        weight.copy_((codes * step).movedim(0, grid.axis or 0))


def squant_codes(scaled: Tensor, low: int, high: int) -> Tensor:
    """Round weights to integer codes by SQuant.

    Args:
        scaled: weights divided by their step, (out, in, kernel) with kernel = kH * kW, 1 for linear layers.
        low: smallest code.
        high: largest code.

    Returns:
        Codes as floats, (out, in, kernel).
    """
    codes = scaled.round().clamp(low, high)
    if scaled.shape[2] == 1:
        movable = _movable(scaled, codes, low, high)
        return codes + _balance(codes - scaled, movable)
    codes, movable = _kernel_stage(scaled, codes, low, high)
    flat = codes.flatten(1).unsqueeze(1)
    errors = flat - scaled.flatten(1).unsqueeze(1)
    moves = _balance(errors, movable.flatten(1).unsqueeze(1))
    return (flat + moves).reshape(scaled.shape)


def _movable(scaled: Tensor, codes: Tensor, low: int, high: int) -> Tensor:
    """For each code the step (+1, -1 or 0) to the neighbour on the other side of its weight; 0 where there is none."""
    direction = -(codes - scaled).sign()
    target = codes + direction
    return torch.where((target >= low) & (target <= high), direction, torch.zeros_like(direction))


def _balance(errors: Tensor, movable: Tensor) -> Tensor:
    """The moves that bring the sum of errors over the last axes of each row to at most one half.

    Args:
        errors: (rows, groups, elements) or (rows, 1, elements); summed over the last two axes per row and group.
        movable: same shape, the step each element may take.
    """
    flat, steps = errors.flatten(1), movable.flatten(1)
    total = flat.sum(dim=1, keepdim=True)
    wanted = -total.sign()
    priority = torch.where(steps == wanted, flat.abs(), torch.zeros_like(flat))
    rank = priority.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen = (rank < total.abs().round()) & (priority > 0)
    return torch.where(chosen, steps, torch.zeros_like(steps)).reshape(errors.shape)


def _kernel_stage(scaled: Tensor, codes: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Balance every kernel; also the one element of each kernel that the channel stage may move, and which way."""
    rows = scaled.flatten(0, 1).unsqueeze(1)
    codes = codes.flatten(0, 1).unsqueeze(1)
    errors = (codes - rows).squeeze(1)
    movable = _movable(rows, codes, low, high).squeeze(1)
    total = errors.sum(dim=1, keepdim=True)
    count = total.abs().round()
    priority = torch.where(movable == -total.sign(), errors.abs(), torch.zeros_like(errors))
    order = priority.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    chosen = (rank < count) & (priority > 0)
    moves = torch.where(chosen, movable, torch.zeros_like(movable))
    # Overshoot: the last element moved may be moved back. Else: the next in line may be moved the same way.
    overshoot = (count >= total.abs()) & (count > 0)
    candidate = order.gather(1, torch.where(overshoot, count - 1, count).long().clamp(max=errors.shape[1] - 1))
    step = torch.where(overshoot, -moves.gather(1, candidate), movable.gather(1, candidate))
    step = torch.where(priority.gather(1, candidate) > 0, step, torch.zeros_like(step))
    allowed = torch.zeros_like(movable).scatter(1, candidate, step)
    return (codes.squeeze(1) + moves).reshape(scaled.shape), allowed.reshape(scaled.shape)
