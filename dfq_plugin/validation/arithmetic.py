"""The exact arithmetic of onnxruntime's integer kernels on x86, in numpy and torch.

Accumulators are exact integers (held in floats wide enough to be exact). Requantization is float32: one multiplication
by ``float32(input_step * weight_step / output_step)``, round half to even, then the zero point. Only the rounding of
QLinearAdd differs: it adds the zero point before rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

Array = npt.NDArray[Any]
UINT8_MAX = 255
FLOAT32_EXACT = 2**24  # every integer of at most this size is exact in float32


@dataclass(frozen=True)
class Codes:
    """Integer codes with their grid: value = step * (code - zero)."""

    codes: Array
    step: Array
    zero: Array

    @property
    def centred(self) -> Array:
        """Codes minus zero point, int64."""
        return self.codes.astype(np.int64) - self.zero.astype(np.int64)


@dataclass(frozen=True)
class Accumulator:
    """An exact integer sum on its way to being requantized or handed out in float.

    Attributes:
        total: the integers, float64.
        step: float32, broadcastable to ``total``: what one unit is worth.
        rectified: whether a Relu follows.
    """

    total: Array
    step: Array
    rectified: bool = False

    def rectify(self) -> Accumulator:
        """The same sum with a Relu behind it."""
        return Accumulator(self.total, self.step, rectified=True)

    def requantize(self, step: np.float32, zero: int) -> Array:
        """uint8 codes on the output's grid."""
        multiplier = (self.step / step).astype(np.float32)
        rounded = np.rint(self.total.astype(np.float32) * multiplier) + zero
        return _saturate(rounded, zero if self.rectified else 0)

    def to_float(self) -> Array:
        """float32 values."""
        values = self.total.astype(np.float32) * self.step
        return np.maximum(values, np.float32(0)) if self.rectified else values


@dataclass(frozen=True)
class Sum:
    """Two quantized tensors about to be added and requantized."""

    left: Codes
    right: Codes
    rectified: bool = False

    def rectify(self) -> Sum:
        """The same sum with a Relu behind it."""
        return Sum(self.left, self.right, rectified=True)

    def requantize(self, step: np.float32, zero: int) -> Array:
        """uint8 codes; each fused multiply-add is float64 rounded once to float32."""
        left_ratio, right_ratio = np.float32(self.left.step / step), np.float32(self.right.step / step)
        offset = np.float32(zero) - _fma(left_ratio, self.left.zero, right_ratio * np.float32(self.right.zero))
        inner = _fma(right_ratio, self.right.codes, np.float32(offset))
        return _saturate(np.rint(_fma(left_ratio, self.left.codes, inner)), zero if self.rectified else 0)


@dataclass(frozen=True)
class Pooled:
    """A global average about to be requantized."""

    total: Array
    count: int
    step: Array

    def requantize(self, step: np.float32, zero: int) -> Array:
        """uint8 codes."""
        multiplier = np.float32(self.step / (step * np.float32(self.count)))
        return _saturate(np.rint(self.total.astype(np.float32) * multiplier) + zero, 0)

    def reshape(self, shape: Sequence[int]) -> Pooled:
        """The same averages in another shape."""
        return Pooled(self.total.reshape(shape), self.count, self.step)


def convolve(
    images: Codes,
    weight: Codes,
    bias: Codes | None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Accumulator:
    """Convolution on codes; padding adds zeros after the zero point is taken off.

    Args:
        images: (N, C, H, W).
        weight: (out, C / group, kH, kW).
        bias: (out,), on the accumulator's own grid, or None.
        strides: per spatial axis.
        pads: begin of every spatial axis, then end of every spatial axis.
        dilations: per spatial axis.
        group: number of groups.
    """
    half = len(pads) // 2
    around = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    dtype = _exact_dtype(weight, bias)
    inputs = F.pad(_tensor(images.centred, dtype), around)
    operator = (F.conv1d, F.conv2d, F.conv3d)[half - 1]
    addend = None if bias is None else _tensor(bias.codes, dtype)
    total = operator(inputs, _tensor(weight.centred, dtype), addend, list(strides), 0, list(dilations), group)
    step = np.float32(images.step) * weight.step.astype(np.float32)
    return Accumulator(total.numpy(), step.reshape(-1, *[1] * half) if step.ndim else step)


def multiply(left: Codes, right: Codes, bias: Codes | None, *, transpose_right: bool) -> Accumulator:
    """Matrix product on codes, (..., K) x (K, M), or (M, K) when transposed, with a bias of (M,)."""
    factor = right.centred.T if transpose_right else right.centred
    total = torch.matmul(_tensor(left.centred, np.float64), _tensor(factor, np.float64)).numpy()
    if bias is not None:
        total = total + bias.codes
    return Accumulator(total, np.float32(left.step) * right.step.astype(np.float32))


def pool_globally(images: Codes) -> Pooled:
    """Sum over every spatial axis of (N, C, H, W), kept as (N, C, 1, 1)."""
    axes = tuple(range(2, images.codes.ndim))
    count = int(np.prod([images.codes.shape[axis] for axis in axes]))
    return Pooled(images.centred.sum(axis=axes, keepdims=True), count, images.step)


def quantize(values: Array, step: np.float32, zero: int) -> Array:
    """uint8 codes of float32 values."""
    return _saturate(np.rint(values.astype(np.float32) / step) + zero, 0)


def _exact_dtype(weight: Codes, bias: Codes | None) -> type[np.floating[Any]]:
    """float32 where no sum of products can leave its 24 exact bits, else float64: the former is far faster."""
    largest = np.abs(weight.centred).reshape(len(weight.codes), -1).sum(axis=1) * UINT8_MAX
    if bias is not None:
        largest = largest + np.abs(bias.codes.astype(np.int64))
    return np.float32 if largest.max(initial=0) < FLOAT32_EXACT else np.float64


def _tensor(integers: Array, dtype: type[np.floating[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(integers, dtype=dtype))


def _fma(factor: np.float32, values: Array, addend: Any) -> Any:  # noqa: ANN401 - scalar or array
    exact = np.float64(factor) * np.asarray(values, dtype=np.float64) + np.asarray(addend, dtype=np.float64)
    return exact.astype(np.float32)


def _saturate(rounded: Array, floor: int) -> Array:
    return np.clip(rounded, floor, UINT8_MAX).astype(np.uint8)
