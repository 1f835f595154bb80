"""Operators that copy codes to other places, where the library of ONNX and onnxruntime do not agree on which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfq_plugin.validation.arithmetic import Array


def resize_nearest(
    images: Array, scales: Array | None, sizes: Array | None, attributes: Mapping[str, Any]
) -> Array | None:
    """Resize by copying the nearest entry; coordinates are float32, as in onnxruntime.

    Args:
        images: of any shape.
        scales: per axis, float32, or None or empty when ``sizes`` is given.
        sizes: of the result per axis.
        attributes: of the Resize operator.

    Returns:
        None for a form of Resize that is not treated here.
    """
    rule = attributes.get("coordinate_transformation_mode", b"half_pixel")
    rounding = attributes.get("nearest_mode", b"round_prefer_floor")
    if "axes" in attributes or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    if sizes is None and scales is not None:
        counts = [int(np.floor(np.float32(size) * scale)) for size, scale in zip(images.shape, scales, strict=True)]
        ratios = [np.float32(scale) for scale in scales]
    elif sizes is not None:
        counts = [int(size) for size in sizes]
        ratios = [np.float32(count) / np.float32(size) for count, size in zip(counts, images.shape, strict=True)]
    for axis, (count, ratio) in enumerate(zip(counts, ratios, strict=True)):
        size = images.shape[axis]
        if count != size or float(ratio) != 1.0:
            places = _coordinates(rule, size, count, ratio)
            if places is None:
                return None
            images = images.take(np.clip(_round(rounding, places), 0, size - 1), axis)
    return images


def _coordinates(rule: bytes, size: int, count: int, ratio: np.float32) -> Array | None:
    """Where each of ``count`` entries lies among ``size``, float32."""
    half, index = np.float32(0.5), np.arange(count, dtype=np.float32)
    if rule == b"asymmetric":
        return index / ratio
    if rule == b"align_corners":
        return index * np.float32(size - 1) / np.float32(count - 1) if count > 1 else 0 * index
    if rule == b"pytorch_half_pixel" and count == 1:
        return 0 * index
    return (index + half) / ratio - half if rule in {b"half_pixel", b"pytorch_half_pixel"} else None


def _round(rounding: bytes, places: Array) -> Array:
    exact = places.astype(np.float64)  # wide enough for the half
    if rounding == b"floor":
        exact = np.floor(exact)
    elif rounding == b"ceil":
        exact = np.ceil(exact)
    elif rounding == b"round_prefer_ceil":
        exact = np.floor(exact + 0.5)
    else:
        exact = np.ceil(exact - 0.5)
    return exact.astype(np.int64)


def crop_and_pad(values: Array, amounts: Array, fill: Any) -> Array:  # noqa: ANN401 - a scalar
    """Pad with a constant; a negative amount takes entries away.

    Args:
        values: of any shape.
        amounts: (2 * axes,): begin of every axis, then end.
        fill: what to pad with.
    """
    half = len(amounts) // 2
    begin, end = np.asarray(amounts[:half]), np.asarray(amounts[half:])
    cuts = tuple(
        slice(max(0, -low), size - max(0, -high))
        for low, high, size in zip(begin.tolist(), end.tolist(), values.shape, strict=True)
    )
    widths = [(max(0, low), max(0, high)) for low, high in zip(begin.tolist(), end.tolist(), strict=True)]
    return np.pad(values[cuts], widths, constant_values=fill)
