"""Operators of PyTorch that its exporter writes in an unfortunate form, written better.

An adaptive average pool becomes a GlobalAveragePool or an AveragePool, which have integer kernels. Where its windows
are not all alike, their elements are repeated first until they are: the average of (a, b) and (c, d, e) is that of
(a, a, a, b, b, b) and (c, c, d, d, e, e).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxscript
import torch
from onnx import numpy_helper

op: Any = onnxscript.opset18
MAX_REPEATED = 2**12  # elements a channel; beyond, matrix products in float are faster than an integer pool


def adaptive_average_pool(images: Any, output_size: Sequence[int]) -> Any:  # noqa: ANN401 - the exporter's own values
    """Average of ``images``, (N, C, H, W), over as many windows as ``output_size``, (rows, columns), asks for."""
    sizes = [int(size) for size in images.shape[-2:]]
    if list(output_size) == [1, 1]:
        return op.GlobalAveragePool(images)
    windows = [_windows(size, count) for size, count in zip(sizes, output_size, strict=True)]
    lengths = [math.lcm(*(len(window) for window in axis)) for axis in windows]
    if math.prod(length * len(axis) for length, axis in zip(lengths, windows, strict=True)) > MAX_REPEATED:
        shares = [_shares(size, axis) for size, axis in zip(sizes, windows, strict=True)]
        return op.MatMul(op.MatMul(_constant(shares[0]), images), _constant(shares[1].T))
    for axis in (0, 1):
        repeated = [element for window in windows[axis] for element in np.repeat(window, lengths[axis] // len(window))]
        if repeated != list(range(sizes[axis])):
            images = op.Gather(images, _constant(np.array(repeated)), axis=2 + axis)
    return op.AveragePool(images, kernel_shape=lengths, strides=lengths)


def _windows(size: int, count: int) -> list[range]:
    """The elements of each window, as PyTorch lays them over an axis: of like lengths, overlapping where need be."""
    return [range(window * size // count, -(-(window + 1) * size // count)) for window in range(count)]


def _shares(size: int, windows: Sequence[range]) -> npt.NDArray[np.float32]:
    """What each element contributes to each window, (windows, size)."""
    shares = np.zeros((len(windows), size), dtype=np.float32)
    for row, window in zip(shares, windows, strict=True):
        row[window.start : window.stop] = 1 / len(window)
    return shares


def _constant(array: npt.NDArray[Any]) -> Any:  # noqa: ANN401
    return op.Constant(value=numpy_helper.from_array(np.ascontiguousarray(array)))


TRANSLATIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.adaptive_avg_pool2d.default: adaptive_average_pool}
