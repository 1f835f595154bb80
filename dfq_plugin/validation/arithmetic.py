"""Codes, grids, and the float32 steps that onnxruntime's integer kernels on x86 share.

The kernels were run on tiny graphs with steps that make ties frequent. Every rule in ``products.py``,
``elementwise.py`` and ``pooling.py`` says in which order it multiplies, adds and rounds: only that order always gives
the same codes. Rounding is half to even throughout. Whether the zero point is added before it or after it differs from
kernel to kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UINT8_MAX = 255


@dataclass(frozen=True)
class Grid:
    """The uint8 codes of one tensor: value = step * (code - zero)."""

    step: np.float32
    zero: int


@dataclass(frozen=True)
class Codes:
    """Integer codes with what one of them is worth: value = step * (code - zero).

    Attributes:
        codes: integers of any type.
        step: float32, one for the tensor or of a shape that broadcasts to ``codes``.
        zero: as ``step``.
    """

    codes: Array
    step: Array
    zero: Array

    @property
    def centred(self) -> Array:
        """Codes minus zero point, int32."""
        return self.codes.astype(np.int32) - self.zero.astype(np.int32)

    @property
    def values(self) -> Array:
        """float32 values, as DequantizeLinear gives them."""
        return self.centred.astype(np.float32) * self.step

    @property
    def grid(self) -> Grid | None:
        """The grid of activations; None for weights and biases."""
        if self.codes.dtype != np.uint8 or np.size(self.step) != 1:
            return None
        return Grid(np.float32(np.asarray(self.step).item()), int(np.asarray(self.zero).item()))

    def moved(self, codes: Array) -> Codes:
        """Other codes on the same grid."""
        return Codes(codes, self.step, self.zero)


def on_grid(codes: Array, grid: Grid) -> Codes:
    """uint8 codes together with their grid."""
    return Codes(codes, np.asarray(grid.step), np.asarray(np.uint8(grid.zero)))


def quantize(values: Array, grid: Grid) -> Array:
    """uint8 codes of float32 values: divide, round, add the zero point (QuantizeLinear)."""
    return saturate(np.rint(values.astype(np.float32) / grid.step) + np.float32(grid.zero))


def saturate(rounded: Array) -> Array:
    """uint8 codes of whole numbers, cut off at both ends."""
    return np.clip(rounded, 0, UINT8_MAX).astype(np.uint8)


def multiply_add(factor: Any, values: Any, addend: Any) -> Any:  # noqa: ANN401 - scalars or arrays
    """``factor * values + addend`` rounded once to float32: in float64 the product of two float32 is exact."""
    exact = np.float64(factor) * np.asarray(values, dtype=np.float64) + np.asarray(addend, dtype=np.float64)
    return exact.astype(np.float32)
