"""The arithmetic of the integer kernels, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfq_plugin.validation import arithmetic
from dfq_plugin.validation.arithmetic import Accumulator, Array, Codes, Sum, convolve, multiply, pool_globally, quantize

ONE = np.float32(1.0)


def accumulator(totals: list[float], step: float = 0.5) -> Accumulator:
    return Accumulator(np.array(totals), np.float32(step))


def codes(values: Any, step: float = 1.0, zero: int = 0) -> Codes:
    return Codes(np.array(values, dtype=np.uint8), np.array(step, dtype=np.float32), np.array(zero, dtype=np.uint8))


def kernel(values: Any, steps: Any = 1.0) -> Codes:
    return Codes(np.array(values, dtype=np.int8), np.array(steps, dtype=np.float32), np.array(0, dtype=np.int8))


def bias(values: list[int]) -> Codes:
    return Codes(np.array(values, dtype=np.int32), ONE, np.array(0, dtype=np.int32))


def conv(images: Codes, weight: Codes, addend: Codes | None = None, **changes: Any) -> Accumulator:
    options: dict[str, Any] = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    return convolve(images, weight, addend, **{**options, **changes})


class TestRequantize:
    def test_ties_go_to_the_even_number(self) -> None:
        # 0.5, 1.5, 2.5, -0.5, -1.5, -2.5
        result = accumulator([1, 3, 5, -1, -3, -5]).requantize(ONE, 10)
        assert result.tolist() == [10, 12, 12, 10, 8, 8]

    def test_zero_point_is_added_after_rounding(self) -> None:
        assert accumulator([1]).requantize(ONE, 3).tolist() == [3]  # 0.5 -> 0, + 3; 3.5 would round to 4

    def test_codes_saturate_at_both_ends(self) -> None:
        result = accumulator([1000, 510, 511, -1, -1000]).requantize(ONE, 0)
        assert result.tolist() == [255, 255, 255, 0, 0]
        assert result.dtype == np.uint8

    def test_relu_keeps_codes_at_the_zero_point_or_above(self) -> None:
        summed = accumulator([-100, -2, 0, 2])
        assert summed.requantize(ONE, 7).tolist() == [0, 6, 7, 8]
        assert summed.rectify().requantize(ONE, 7).tolist() == [7, 7, 7, 8]

    def test_sum_is_rounded_to_float32_before_it_is_scaled(self) -> None:
        # 2^24 + 1 is 2^24 in float32: exactly 0.5 after scaling, to even 0; in float64 it would be above 0.5.
        summed = accumulator([2**24 + 1], step=2.0**-25)
        assert summed.requantize(ONE, 0).tolist() == [0]

    def test_multiplier_is_a_quotient_in_float32(self) -> None:
        step, out = np.float32(0.39), np.float32(0.3)
        assert np.float32(35) * (step / out) == 45.5  # a tie, to the even number
        assert 35 * (float(step) / float(out)) < 45.5
        assert accumulator([35], step=0.39).requantize(out, 0).tolist() == [46]

    def test_every_channel_has_its_own_step(self) -> None:
        step = np.array([[1.0], [0.25]], dtype=np.float32)
        summed = Accumulator(np.array([[8.0, 4.0], [8.0, 4.0]]), step)
        assert summed.requantize(np.float32(2.0), 0).tolist() == [[4, 2], [1, 0]]  # 0.5 -> 0

    def test_float_output_is_the_float32_sum_times_the_step(self) -> None:
        summed = accumulator([3, -3, 2**24 + 1], step=0.25)
        assert summed.to_float().tolist() == [0.75, -0.75, 2.0**22]
        assert summed.to_float().dtype == np.float32
        assert summed.rectify().to_float().tolist() == [0.75, 0.0, 2.0**22]


class TestSum:
    def test_steps_and_zero_points_are_those_of_each_side(self) -> None:
        left, right = codes([10, 6], step=0.5, zero=8), codes([20, 16], step=0.25, zero=16)  # 1, -1 and 1, 0
        assert Sum(left, right).requantize(np.float32(0.5), 4).tolist() == [8, 2]

    @pytest.mark.parametrize(("zero", "expected"), [(0, 0), (1, 2), (2, 2), (3, 4)])
    def test_zero_point_is_added_before_rounding(self, zero: int, expected: int) -> None:
        half = Sum(codes([1], step=0.5), codes([0], step=0.5))  # 0.5 + zero, to the even number
        assert half.requantize(ONE, zero).tolist() == [expected]

    def test_codes_saturate_and_relu_stops_at_the_zero_point(self) -> None:
        summed = Sum(codes([0, 255, 9], zero=10), codes([0, 255, 10], zero=10))  # -20, 490, -1
        assert summed.requantize(ONE, 12).tolist() == [0, 255, 11]
        assert summed.rectify().requantize(ONE, 12).tolist() == [12, 255, 12]

    def test_multiply_and_add_round_once(self) -> None:
        # (1 + 2^-23) * 3 - 3 is 3 * 2^-23; rounding the product first would give 4 * 2^-23.
        factor = np.float32(1 + 2.0**-23)
        assert arithmetic._fma(factor, np.array(3), np.float32(-3)) == 3 * 2.0**-23
        assert arithmetic._fma(factor, np.array(3), np.float32(-3)).dtype == np.float32


class TestPool:
    def test_average_is_scaled_then_rounded_then_shifted(self) -> None:
        images = codes([[[[9, 10], [11, 13]]]], step=0.5, zero=8)  # sum 11, average 1.375
        pooled = pool_globally(images)
        assert pooled.total.shape == (1, 1, 1, 1)
        # 11 * 0.5 / (0.25 * 4) = 5.5 -> 6, + 3
        assert pooled.requantize(np.float32(0.25), 3).tolist() == [[[[9]]]]

    def test_every_channel_and_image_has_its_own_average(self) -> None:
        images = codes(np.arange(16).reshape(2, 2, 2, 2))
        result = pool_globally(images).requantize(np.float32(0.5), 0)
        assert result.tolist() == [[[[3]], [[11]]], [[[19]], [[27]]]]

    def test_codes_saturate(self) -> None:
        assert pool_globally(codes([[[[200]]]])).requantize(np.float32(0.5), 0).tolist() == [[[[255]]]]
        assert pool_globally(codes([[[[0]]]], zero=9)).requantize(ONE, 5).tolist() == [[[[0]]]]

    def test_reshaping_changes_no_average(self) -> None:
        pooled = pool_globally(codes(np.arange(8).reshape(1, 2, 2, 2)))
        assert pooled.reshape([1, -1]).requantize(np.float32(0.5), 0).tolist() == [[3, 11]]


class TestConvolve:
    def test_padding_adds_nothing_when_the_zero_point_is_not_zero(self) -> None:
        images = codes(np.full((1, 1, 2, 2), 128), zero=128)
        result = conv(images, kernel(np.full((1, 1, 3, 3), 7)), bias([5]), pads=[1, 1, 1, 1])
        assert result.total.tolist() == [[[[5, 5], [5, 5]]]]

    def test_pads_are_begin_of_each_axis_then_end(self) -> None:
        one = codes([[[[129]]]], zero=128)
        weight = kernel([[[[1, 2], [3, 4]]]])
        found = {
            pads: conv(one, weight, pads=list(pads)).total.item()
            for pads in ((0, 0, 1, 1), (1, 1, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0))
        }
        assert found == {(0, 0, 1, 1): 1, (1, 1, 0, 0): 4, (1, 0, 0, 1): 3, (0, 1, 1, 0): 2}

    def test_cross_correlation_with_strides_and_dilations(self) -> None:
        images = codes(np.arange(16).reshape(1, 1, 4, 4))
        weight = kernel([[[[1, 0], [0, 10]]]])
        assert conv(images, weight, strides=[2, 2]).total.tolist() == [[[[50, 72], [138, 160]]]]
        assert conv(images, weight, dilations=[3, 3]).total.tolist() == [[[[150]]]]

    def test_groups_see_their_own_channels(self) -> None:
        images = codes(np.array([1, 10, 100]).reshape(1, 3, 1, 1))
        weight = kernel(np.array([2, 3, -1]).reshape(3, 1, 1, 1))
        assert conv(images, weight, group=3).total.ravel().tolist() == [2, 30, -100]

    def test_step_of_a_unit_is_the_product_of_the_float32_steps(self) -> None:
        images, weight = codes([[[[3]]]], step=0.1), kernel(np.ones((2, 1, 1, 1)), steps=[0.2, 0.3])
        expected = np.float32(0.1) * np.array([0.2, 0.3], dtype=np.float32)
        result = conv(images, weight)
        assert result.step.shape == (2, 1, 1)
        assert np.array_equal(result.step.ravel(), expected)

    def test_sums_beyond_24_bits_are_exact(self) -> None:
        images, weight = codes(np.full((1, 1100, 1, 1), 255)), kernel(np.full((1, 1100, 1, 1), 127))
        assert conv(images, weight, bias([2])).total.item() == 1100 * 255 * 127 + 2  # even and above 2^25

    def test_one_spatial_axis_works_too(self) -> None:
        images = codes(np.arange(4).reshape(1, 1, 4))
        result = conv(images, kernel([[[1, 10]]]), strides=[1], pads=[0, 1], dilations=[1])
        assert result.total.tolist() == [[[10, 21, 32, 3]]]


class TestExactness:
    """65793 * 255 + 1 is 2^24, the first number that float32 may not tell from its neighbour."""

    WEIGHT = np.array([127] * 518 + [7], dtype=np.int8).reshape(1, -1, 1, 1)

    def chosen(self, weight: Array, addend: Codes | None) -> type:
        return arithmetic._exact_dtype(kernel(weight), addend)

    def test_float32_is_enough_up_to_the_bound(self) -> None:
        assert self.chosen(self.WEIGHT, None) is np.float32
        assert self.chosen(-self.WEIGHT, bias([0])) is np.float32

    @pytest.mark.parametrize("addend", [1, -1])
    def test_float64_is_taken_from_the_bound_on(self, addend: int) -> None:
        assert self.chosen(self.WEIGHT, bias([addend])) is np.float64

    def test_the_largest_channel_decides(self) -> None:
        both = np.concatenate([np.zeros_like(self.WEIGHT), self.WEIGHT])
        assert self.chosen(both, bias([2**23, 0])) is np.float32
        assert self.chosen(both, bias([0, 1])) is np.float64


class TestMultiply:
    LEFT = codes([[1, 2], [3, 4]], step=0.5, zero=1)  # 0 1, 2 3

    def test_product_with_bias(self) -> None:
        result = multiply(self.LEFT, kernel([[1, 10, 100], [2, 20, 127]]), bias([5, 6, 7]), transpose_right=False)
        assert result.total.tolist() == [[7, 26, 134], [13, 86, 588]]

    def test_transposed_weight(self) -> None:
        result = multiply(self.LEFT, kernel([[1, 2], [10, 20]], steps=[2.0, 4.0]), None, transpose_right=True)
        assert result.total.tolist() == [[2, 20], [8, 80]]
        assert result.step.tolist() == [1.0, 2.0]

    def test_sums_beyond_24_bits_are_exact(self) -> None:
        left, right = codes(np.full((1, 1100), 255)), kernel(np.full((1100, 1), 127))
        assert multiply(left, right, bias([2]), transpose_right=False).total.item() == 1100 * 255 * 127 + 2


class TestQuantize:
    def test_values_become_codes(self) -> None:
        values = np.array([-1.0, 0.0, 0.25, 0.75, 1.25, 100.0], dtype=np.float32)
        assert quantize(values, np.float32(0.5), 1).tolist() == [0, 1, 1, 3, 3, 201]  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
        assert quantize(values, np.float32(0.1), 1)[-1] == 255

    def test_division_is_in_float32(self) -> None:
        value, step = np.float32(0.41563326), np.float32(0.27708885)
        assert value / step == np.float32(1.5)  # a tie, to the even number
        assert float(value) / float(step) < 1.5
        assert quantize(np.array([value]), step, 0).tolist() == [2]

    def test_centred_codes_are_wide_enough_for_every_difference(self) -> None:
        assert codes([0, 255], zero=255).centred.tolist() == [-255, 0]
