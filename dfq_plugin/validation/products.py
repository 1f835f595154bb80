"""Convolutions and matrix products on codes: QLinearConv, QGemm, QLinearMatMul and MatMulIntegerToFloat.

Accumulators are exact integers, held in floats wide enough. One float32 multiplication by
``float32(float32(input_step * weight_step) / output_step)`` makes codes of them: round half to even, then add the
zero point, then saturate. Without an output grid, the float32 sum times ``float32(input_step * weight_step)`` is handed
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dfq_plugin.validation.arithmetic import Array, Codes, Grid, saturate

FLOAT32_EXACT = 2**24  # every integer of at most this size is exact in float32
Operand = Codes | None


@dataclass(frozen=True)
class Accumulator:
    """An exact integer sum of products.

    Attributes:
        total: the integers, in a float type that holds them exactly.
        step: float32, of a shape that broadcasts to ``total``: what one unit is worth.
    """

    total: Array
    step: Array

    def requantize(self, grid: Grid) -> Array:
        """uint8 codes on the output's grid."""
        multiplier = (self.step / grid.step).astype(np.float32)
        return saturate(np.rint(self.total.astype(np.float32) * multiplier) + np.float32(grid.zero))

    def to_float(self) -> Array:
        """float32 values."""
        return self.total.astype(np.float32) * self.step

    def plus(self, bias: Codes) -> Accumulator:
        """The sum with a bias of (channels,) int32 codes along the last axis."""
        return Accumulator(self.total.astype(np.float64) + _in_units(bias, self.step), self.step)


def convolve(
    images: Codes,
    weight: Codes,
    bias: Operand,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Accumulator:
    """Convolution on codes; padding adds zeros after the zero point is taken off.

    Args:
        images: (N, C, spatial...).
        weight: (out, C / group, spatial...), one step per tensor or output channel.
        bias: (out,) int32 codes, or None.
        strides: per spatial axis.
        pads: begin of every spatial axis, then end of every spatial axis.
        dilations: per spatial axis.
        group: number of groups.
    """
    half = len(pads) // 2
    around = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    centred, factors, unit = images.centred, weight.centred, _unit(images, weight)
    shift = None if bias is None else _in_units(bias, unit)
    dtype = _exact_dtype(centred, factors, shift)
    inputs = F.pad(_tensor(centred, dtype), around)
    operator = (F.conv1d, F.conv2d, F.conv3d)[half - 1]
    addend = None if shift is None else _tensor(shift, dtype)
    total = operator(inputs, _tensor(factors, dtype), addend, list(strides), 0, list(dilations), group)
    return Accumulator(total.numpy(), unit.reshape(-1, *[1] * half) if unit.ndim else unit)


def multiply(left: Codes, right: Codes, bias: Operand = None, *, transpose_right: bool = False) -> Accumulator:
    """Matrix product on codes.

    Args:
        left: (..., K), one step for the tensor.
        right: (..., K, M), or (M, K) when transposed; one step per tensor or column.
        bias: (M,) int32 codes, or None.
        transpose_right: whether the last two axes of ``right`` change places first.
    """
    factor = right.centred.swapaxes(-1, -2) if transpose_right else right.centred
    total = torch.matmul(_tensor(left.centred, np.float64), _tensor(factor, np.float64)).numpy()
    summed = Accumulator(total, _unit(left, right))
    return summed if bias is None else summed.plus(bias)


def _unit(left: Codes, right: Codes) -> Array:
    """float32 product of the two steps, () or (channels,)."""
    step = np.float32(np.asarray(left.step).item()) * np.asarray(right.step, dtype=np.float32)
    result: Array = step.reshape(-1 if step.size > 1 else ())
    return result


def _in_units(bias: Codes, unit: Array) -> Array:
    """A bias in units of the sum it joins: its codes, unless it has a step of its own, which integer kernels ignore."""
    if bool((np.asarray(bias.step).reshape(-1) == unit.reshape(-1)).all()):
        return bias.codes
    return bias.codes * (bias.step.astype(np.float64) / unit)


def _exact_dtype(centred: Array, weight: Array, shift: Array | None) -> type[np.floating[Any]]:
    """float32 where no sum of products can leave its 24 exact bits, else float64: the former is far faster."""
    largest = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) * int(np.abs(centred).max(initial=0))
    if shift is not None:
        largest = largest + np.abs(shift.astype(np.float64))
    exact = largest.max(initial=0) < FLOAT32_EXACT and (shift is None or shift.dtype == np.int32)
    return np.float32 if exact else np.float64


def _tensor(integers: Array, dtype: type[np.floating[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(integers, dtype=dtype))
