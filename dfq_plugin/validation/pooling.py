"""Pools on codes: QLinearAveragePool, QLinearGlobalAveragePool and MaxPool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from dfq_plugin.validation.arithmetic import Array, Codes, Grid, saturate


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pool lie; one number per spatial axis, ``pads`` begin of every axis, then end."""

    kernel: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]
    ceil_mode: bool = False

    def count(self, sizes: Sequence[int]) -> list[int]:
        """Windows along each axis; with ``ceil_mode`` the last may stick out, but it starts inside."""
        counts = []
        for axis, size in enumerate(sizes):
            begin, end = self.pads[axis], self.pads[axis + len(sizes)]
            room = size + begin + end - (self.kernel[axis] - 1) * self.dilations[axis] - 1
            count = room // self.strides[axis] + 1
            if self.ceil_mode and room % self.strides[axis] and count * self.strides[axis] < size + begin:
                count += 1
            counts.append(count)
        return counts

    def places_inside(self, sizes: Sequence[int], *, padded: bool) -> Array:
        """Entries of every window that lie inside the image, or inside its padding too; as (windows...)."""
        half, result = len(sizes), np.ones((), dtype=np.int64)
        for axis, (size, count) in enumerate(zip(sizes, self.count(sizes), strict=True)):
            starts = np.arange(count)[:, None] * self.strides[axis] - self.pads[axis]
            places = starts + np.arange(self.kernel[axis]) * self.dilations[axis]
            low, high = (-self.pads[axis], size + self.pads[axis + half]) if padded else (0, size)
            inside = ((places >= low) & (places < high)).sum(axis=1)
            result = result[..., None] * inside
        return result

    def entries(self, images: Array, fill: float) -> Iterator[Array]:
        """Each entry of every window, last axis fastest, as (N, C, windows...); ``fill`` is outside the image."""
        sizes = images.shape[2:]
        counts = self.count(sizes)
        widths = [(0, 0), (0, 0)]
        for axis, size in enumerate(sizes):
            reach = (counts[axis] - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1
            widths.append((self.pads[axis], max(0, reach - size - self.pads[axis])))
        padded = np.pad(images, widths, constant_values=fill)
        for offset in np.ndindex(*self.kernel):
            starts = [at * dilation for at, dilation in zip(offset, self.dilations, strict=True)]
            cuts = tuple(
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(starts, counts, self.strides, strict=True)
            )
            yield padded[(slice(None), slice(None)) + cuts]  # noqa: RUF005 - needs a newer Python otherwise


def max_pool(images: Array, windows: Windows) -> Array:
    """Largest entry of every window of (N, C, spatial...); padding never wins."""
    lowest = 0 if images.dtype == np.uint8 else -np.inf
    return reduce(np.maximum, windows.entries(images, lowest))


def average_pool(images: Codes, windows: Windows, grid: Grid, *, count_padding: bool) -> Array:
    """uint8 codes of averages (QLinearAveragePool).

    Float32 throughout: the dequantized entries of a window are added one after the other, row by row, the sum is
    divided by their number, then by the step, the zero point is added, and only then is the result rounded. A window
    that is the whole image, without padding, is computed as a global pool instead.

    Args:
        images: (N, C, spatial...).
        windows: where they lie.
        grid: of the averages.
        count_padding: whether padded places count as entries; places beyond the padding never do.
    """
    if tuple(windows.kernel) == images.codes.shape[2:] and not any(windows.pads):
        return pool_globally(images, grid)
    values = images.values
    total = reduce(np.add, windows.entries(values, 0.0))
    number = windows.places_inside(values.shape[2:], padded=count_padding).astype(np.float32)
    return saturate(np.rint(total / number / grid.step + np.float32(grid.zero)))


def pool_globally(images: Codes, grid: Grid) -> Array:
    """uint8 codes of the average over every spatial axis, kept as axes of 1 (QLinearGlobalAveragePool).

    The exact integer sum times ``float32(input_step / float32(step * count))``, rounded, then the zero point.
    """
    axes = tuple(range(2, images.codes.ndim))
    count = np.float32(np.prod([images.codes.shape[axis] for axis in axes]))
    multiplier = np.float32(images.step / np.float32(grid.step * count))
    total = images.centred.sum(axis=axes, keepdims=True, dtype=np.int64)
    return saturate(np.rint(total.astype(np.float32) * multiplier) + np.float32(grid.zero))


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, more_at_end: bool
) -> list[int]:
    """Pads that make ``ceil(size / stride)`` windows of every axis: begin of every axis, then end."""
    totals = [
        max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*smaller, *larger] if more_at_end else [*larger, *smaller]
