"""Codes that are copied to other places, against places worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfq_plugin.validation.resizing import crop_and_pad, resize_nearest

ROW = np.array([[10, 20, 30]], dtype=np.uint8)
ASYMMETRIC: dict[str, Any] = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}


def resize(row: Any, *, scale: float | None = None, size: int | None = None, **attributes: bytes) -> list[int] | None:
    scales = None if scale is None else np.array([1, scale], dtype=np.float32)
    sizes = None if size is None else np.array([1, size])
    found = resize_nearest(np.asarray(row), scales, sizes, attributes)
    return None if found is None else found[0].tolist()


@pytest.mark.parametrize(
    ("mode", "rounding", "expected"),
    [  # coordinates 0 .6 1.2 1.8 2.4, -.2 .4 1 1.6 2.2, 0 .5 1 1.5 2
        ("asymmetric", "floor", [10, 10, 20, 20, 30]),
        ("asymmetric", "ceil", [10, 20, 30, 30, 30]),
        ("asymmetric", "round_prefer_floor", [10, 20, 20, 30, 30]),
        ("half_pixel", "floor", [10, 10, 20, 20, 30]),
        ("half_pixel", "ceil", [10, 20, 20, 30, 30]),
        ("half_pixel", "round_prefer_ceil", [10, 10, 20, 30, 30]),
        ("align_corners", "round_prefer_floor", [10, 10, 20, 20, 30]),
        ("align_corners", "round_prefer_ceil", [10, 20, 20, 30, 30]),
        ("pytorch_half_pixel", "floor", [10, 10, 20, 20, 30]),
    ],
)
def test_nearest_entry_is_copied(mode: str, rounding: str, expected: list[int]) -> None:
    attributes: dict[str, Any] = {
        "coordinate_transformation_mode": mode.encode(),
        "nearest_mode": rounding.encode(),
    }
    assert resize(ROW, size=5, **attributes) == expected


def test_half_pixels_and_rounding_down_are_what_onnx_means_when_it_says_nothing() -> None:
    assert resize(ROW, size=5) == [10, 10, 20, 30, 30]
    assert resize([[10, 20]], size=1) == [10]  # 0.5 goes down


@pytest.mark.parametrize(("mode", "expected"), [("half_pixel", 20), ("pytorch_half_pixel", 10), ("align_corners", 10)])
def test_one_entry_is_left(mode: str, expected: int) -> None:
    assert resize(ROW, size=1, coordinate_transformation_mode=mode.encode()) == [expected]


def test_scales_give_the_size_in_float32() -> None:
    assert resize(ROW, scale=2, **ASYMMETRIC) == [10, 10, 20, 20, 30, 30]
    assert resize(ROW, scale=5 / 3, **ASYMMETRIC) == [10, 10, 20, 20, 30]  # below 5 in float64
    assert resize(ROW, scale=0.5, **ASYMMETRIC) == [10]


def test_places_are_computed_in_float32() -> None:
    row = np.arange(14)[None]
    found = resize(row, size=16, **ASYMMETRIC)
    expected = [place * 14 // 16 for place in range(16)]
    expected[8] = 6  # 8 / float32(16 / 14) lies below 7
    assert found == expected


@pytest.mark.parametrize(
    "attributes",
    [
        {"coordinate_transformation_mode": b"tf_crop_and_resize"},
        {"keep_aspect_ratio_policy": b"not_larger"},
        {"axes": [1]},
    ],
)
def test_other_forms_are_not_guessed(attributes: dict[str, Any]) -> None:
    assert resize(ROW, size=5, **attributes) is None


def test_padding_fills_and_negative_amounts_crop() -> None:
    found = crop_and_pad(ROW, np.array([0, -1, 1, 2]), 7)
    assert found.tolist() == [[20, 30, 7, 7], [7, 7, 7, 7]]
    assert found.dtype == np.uint8
    assert crop_and_pad(ROW, np.array([0, 1, 0, -2]), 7).tolist() == [[7, 10]]
