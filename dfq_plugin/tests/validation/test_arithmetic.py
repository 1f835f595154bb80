"""Codes, grids and rounding, against values worked out by hand."""

from __future__ import annotations

import numpy as np

from dfq_plugin.tests.validation.samples import bias, codes, grid, kernel
from dfq_plugin.validation.arithmetic import multiply_add, on_grid, quantize, saturate


class TestCodes:
    def test_centred_codes_are_wide_enough_for_every_difference(self) -> None:
        assert codes([0, 255], zero=255).centred.tolist() == [-255, 0]
        assert kernel([-128, 127]).centred.tolist() == [-128, 127]

    def test_values_are_the_step_times_the_centred_codes_in_float32(self) -> None:
        found = codes([0, 3, 10], step=0.1, zero=3).values
        assert found.dtype == np.float32
        assert found.tolist() == [np.float32(-3) * np.float32(0.1), 0.0, np.float32(7) * np.float32(0.1)]

    def test_grid_is_that_of_uint8_codes_with_one_step(self) -> None:
        assert codes([1], step=0.5, zero=7).grid == grid(0.5, 7)
        assert on_grid(np.array([1], dtype=np.uint8), grid(0.5, 7)).grid == grid(0.5, 7)
        assert kernel([1]).grid is None
        assert bias([1]).grid is None
        assert kernel([1, 2], steps=[0.5, 1.0]).grid is None

    def test_moving_codes_keeps_their_grid(self) -> None:
        moved = codes([1, 2], step=0.5, zero=7).moved(np.array([2], dtype=np.uint8))
        assert (moved.codes.tolist(), moved.grid) == ([2], grid(0.5, 7))


class TestQuantize:
    def test_values_become_codes(self) -> None:
        values = np.array([-1.0, 0.0, 0.25, 0.75, 1.25, 100.0], dtype=np.float32)
        assert quantize(values, grid(0.5, 1)).tolist() == [0, 1, 1, 3, 3, 201]  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
        assert quantize(values, grid(0.1, 1))[-1] == 255

    def test_division_is_in_float32(self) -> None:
        value, step = np.float32(0.41563326), np.float32(0.27708885)
        assert value / step == np.float32(1.5)  # a tie, to the even number
        assert float(value) / float(step) < 1.5
        assert quantize(np.array([value]), grid(float(step))).tolist() == [2]

    def test_codes_saturate_at_both_ends(self) -> None:
        found = saturate(np.array([-1.0, 0.0, 255.0, 256.0, 1e9]))
        assert found.tolist() == [0, 0, 255, 255, 255]
        assert found.dtype == np.uint8


def test_multiply_and_add_round_once() -> None:
    # (1 + 2^-23) * 3 - 3 is 3 * 2^-23; rounding the product first would give 4 * 2^-23.
    factor = np.float32(1 + 2.0**-23)
    found = multiply_add(factor, np.array(3), np.float32(-3))
    assert found == 3 * 2.0**-23
    assert found.dtype == np.float32
