"""Sums, products, concatenations and functions of codes: QLinearAdd, QLinearMul, QLinearConcat and look-up tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dfq_plugin.validation.arithmetic import Array, Codes, Grid, multiply_add, quantize, saturate

# The rational function in which onnxruntime computes a logistic: odd powers over even powers, highest first.
LOGISTIC_BOUND = np.float32(18.0)
NUMERATOR = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 0.248287947061529)
DENOMINATOR = (
    *(6.10247389755681e-13, 5.76102136993427e-09, 6.2910678501704e-06),
    *(1.70198817374094e-03, 0.116817656904453, 0.99315192102318),
)


def add(left: Codes, right: Codes, grid: Grid) -> Array | None:
    """uint8 codes of a sum with numpy's broadcasting (QLinearAdd).

    With ``a = left_step / step`` and ``b = right_step / step``, in fused multiply-adds, the zero point inside:
    ``offset = zero - fma(a, left_zero, b * right_zero)``, then ``round(fma(a, left, fma(b, right, offset)))``.
    Where the left operand has only one entry along the innermost axis, the two change places. Which axis is innermost
    depends on the memory layout that onnxruntime has chosen, so where that matters both orders are computed.

    Returns:
        None when the two orders differ: which of them is right cannot be seen from the file.
    """
    codes = _add_in_order(left, right, grid)
    shared = min(left.codes.ndim, right.codes.ndim)
    all_ones = all(size == 1 for size in codes.shape[codes.ndim - shared :])
    if left.codes.shape != codes.shape or all_ones:
        return codes if np.array_equal(codes, _add_in_order(right, left, grid)) else None
    return codes


def _add_in_order(left: Codes, right: Codes, grid: Grid) -> Array:
    left_ratio, right_ratio = np.float32(left.step / grid.step), np.float32(right.step / grid.step)
    shift = multiply_add(left_ratio, left.zero, right_ratio * np.float32(right.zero))
    inner = multiply_add(right_ratio, right.codes, np.float32(grid.zero) - np.float32(shift))
    return saturate(np.rint(multiply_add(left_ratio, left.codes, inner)))


def multiply_elements(left: Codes, right: Codes, grid: Grid) -> Array:
    """uint8 codes of an elementwise product with numpy's broadcasting (QLinearMul).

    ``round(float32(integer product) * float32(float32(left_step * right_step) / step) + zero)``: the zero point is
    added, in float32, before rounding.
    """
    multiplier = np.float32(np.float32(left.step * right.step) / grid.step)
    product = (left.centred * right.centred).astype(np.float32)
    return saturate(np.rint(product * multiplier + np.float32(grid.zero)))


def concatenate(parts: Sequence[Codes], axis: int, grid: Grid) -> Array:
    """uint8 codes of parts brought to one grid (QLinearConcat): each is dequantized and quantized in float32."""
    return np.concatenate([part.codes if part.grid == grid else quantize(part.values, grid) for part in parts], axis)


def look_up(codes: Codes, function: Callable[[Array], Array], grid: Grid) -> Array:
    """uint8 codes of a function of each value, from a table of all 256 codes (QLinearSigmoid, QLinearLeakyRelu)."""
    table = quantize(function(codes.moved(np.arange(256, dtype=np.uint8)).values), grid)
    return table[codes.codes]


def logistic(values: Array) -> Array:
    """1 / (1 + exp(-x)) in float32 by onnxruntime's rational function, whose error decides a few codes in a million."""
    bounded = np.clip(values.astype(np.float32), -LOGISTIC_BOUND, LOGISTIC_BOUND)
    square = bounded * bounded
    ratio = (_polynomial(NUMERATOR, square) * bounded) / _polynomial(DENOMINATOR, square)
    result: Array = np.maximum(ratio + np.float32(0.5), np.float32(0))
    return result


def leaky(slope: float) -> Callable[[Array], Array]:
    """The function x for x >= 0, ``slope`` * x below."""
    return lambda values: np.where(values >= 0, values, np.float32(slope) * values)


def _polynomial(coefficients: Sequence[float], variable: Array) -> Array:
    """Horner's rule by fused multiply-adds."""
    result: Array = np.full_like(variable, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        result = multiply_add(result, variable, np.float32(coefficient))
    return result
