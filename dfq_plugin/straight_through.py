"""Rounding to a grid with gradients for values and step, in as few passes over memory as can be.

The gradients are those of LSQ (Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153): values
within the range pass theirs on, those beyond pass nothing; the slope of the output over the step is (output - value) /
step within the range and output / step beyond. NNCF's symmetric quantizers take several times as long for the same, and
where they are signed count the errors within the range at about half of what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Values on the outermost codes are within the range, also where a division leaves them a bit beyond: weights that were
# rounded before stand exactly there, and could never leave otherwise.
WIDER = 1.0 + 1e-6


def round_to_grid(values: Tensor, step: Tensor, codes: tuple[int, int], kept: Tensor | None = None) -> Tensor:
    """Round values to multiples of a step.

    Args:
        values: any shape.
        step: one for all values, or one a channel, in a shape that broadcasts to that of ``values``.
        codes: the smallest and the largest multiple.
        kept: 1 where values are rounded and 0 where they stay as they are, in the shape of ``values``; None rounds all.

    Returns:
        The rounded values, with gradients for ``values`` and ``step``.
    """
    rounded: Tensor = _RoundToGrid.apply(values, step, codes, kept)
    return rounded


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """The sum of the products of two tensors' elements, a scalar, without a third tensor for the products."""
    if first.ndim == 4 and not first.is_contiguous():  # channels last: they lie in another order in memory
        first, second = first.permute(0, 2, 3, 1), second.permute(0, 2, 3, 1)
    return torch.dot(first.reshape(-1), second.reshape(-1))


class _RoundToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, codes: tuple[int, int], kept: Tensor | None) -> Tensor:  # noqa: ANN401
        low, high = codes
        output = (values / step).round_().clamp_(low, high).mul_(step)
        if kept is not None:
            output = torch.lerp(values, output, kept)
        ctx.save_for_backward(values, output, step, kept)
        ctx.codes = codes
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = gradients
        values, output, step, kept = ctx.saved_tensors
        passed = _within(gradient, values, step, ctx.codes)
        if kept is not None:
            passed = torch.lerp(gradient, passed, kept)
        if step.numel() == 1:
            slope = (inner_product(gradient, output) - inner_product(passed, values)).reshape(step.shape) / step
        else:
            slope = (gradient * output).sub_(passed * values).sum_to_size(step.shape) / step
        return passed, slope, None, None


def _within(gradient: Tensor, values: Tensor, step: Tensor, codes: tuple[int, int]) -> Tensor:
    """The gradient where values are within the range, zero elsewhere."""
    low, high = (code * WIDER for code in codes)
    if step.numel() == 1 and values.device.type == "cpu":  # elsewhere reading the step would wait for the device
        size = step.item()
        return torch.ops.aten.hardtanh_backward(gradient, values, low * size, high * size)  # type: ignore[no-any-return]
    return gradient.masked_fill((values < low * step) | (values > high * step), 0.0)
