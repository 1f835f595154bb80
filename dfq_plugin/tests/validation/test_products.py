"""Convolutions and matrix products on codes, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfq_plugin.tests.validation.samples import ONE, bias, codes, grid, kernel
from dfq_plugin.validation import products
from dfq_plugin.validation.arithmetic import Array, Codes
from dfq_plugin.validation.products import Accumulator, convolve, multiply


def accumulator(totals: list[float], step: float = 0.5) -> Accumulator:
    return Accumulator(np.array(totals), np.array(step, np.float32))


def conv(images: Codes, weight: Codes, addend: Codes | None = None, **changes: Any) -> Accumulator:
    options: dict[str, Any] = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    return convolve(images, weight, addend, **{**options, **changes})


class TestRequantize:
    def test_ties_go_to_the_even_number(self) -> None:
        # 0.5, 1.5, 2.5, -0.5, -1.5, -2.5
        result = accumulator([1, 3, 5, -1, -3, -5]).requantize(grid(zero=10))
        assert result.tolist() == [10, 12, 12, 10, 8, 8]

    def test_zero_point_is_added_after_rounding(self) -> None:
        assert accumulator([1]).requantize(grid(zero=3)).tolist() == [3]  # 0.5 -> 0, + 3; 3.5 would round to 4

    def test_codes_saturate_at_both_ends(self) -> None:
        result = accumulator([1000, 510, 511, -1, -1000]).requantize(grid())
        assert result.tolist() == [255, 255, 255, 0, 0]
        assert result.dtype == np.uint8

    def test_sum_is_rounded_to_float32_before_it_is_scaled(self) -> None:
        # 2^24 + 1 is 2^24 in float32: exactly 0.5 after scaling, to even 0; in float64 it would be above 0.5.
        assert accumulator([2**24 + 1], step=2.0**-25).requantize(grid()).tolist() == [0]

    def test_multiplier_is_a_quotient_in_float32(self) -> None:
        step, out = np.float32(0.39), np.float32(0.3)
        assert np.float32(35) * (step / out) == 45.5  # a tie, to the even number
        assert 35 * (float(step) / float(out)) < 45.5
        assert accumulator([35], step=0.39).requantize(grid(float(out))).tolist() == [46]

    def test_every_channel_has_its_own_step(self) -> None:
        step = np.array([[1.0], [0.25]], dtype=np.float32)
        summed = Accumulator(np.array([[8.0, 4.0], [8.0, 4.0]]), step)
        assert summed.requantize(grid(2.0)).tolist() == [[4, 2], [1, 0]]  # 0.5 -> 0

    def test_float_output_is_the_float32_sum_times_the_step(self) -> None:
        summed = accumulator([3, -3, 2**24 + 1], step=0.25)
        assert summed.to_float().tolist() == [0.75, -0.75, 2.0**22]
        assert summed.to_float().dtype == np.float32

    def test_bias_joins_the_exact_sum(self) -> None:
        summed = Accumulator(np.array([[2.0**24, 1.0]]), np.asarray(ONE)).plus(bias([1, -3]))
        assert summed.total.tolist() == [[2**24 + 1, -2]]


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

    def test_bias_with_a_step_of_its_own_counts_for_what_it_is_worth(self) -> None:
        images, weight = codes([[[[3]]]], step=0.5), kernel([[[[1]]]], steps=0.5)
        assert conv(images, weight, bias([2], step=0.25)).total.item() == 5
        assert conv(images, weight, bias([2], step=0.3125)).total.item() == 5.5

    def test_sums_beyond_24_bits_are_exact(self) -> None:
        images, weight = codes(np.full((1, 1100, 1, 1), 255)), kernel(np.full((1, 1100, 1, 1), 127))
        assert conv(images, weight, bias([2])).total.item() == 1100 * 255 * 127 + 2  # even and above 2^25

    @pytest.mark.parametrize(("shape", "expected"), [((4,), [10, 21, 32, 3]), ((4, 1, 1), [10, 21, 32, 3])])
    def test_one_and_three_spatial_axes_work_too(self, shape: tuple[int, ...], expected: list[int]) -> None:
        images, half = codes(np.arange(4).reshape(1, 1, *shape)), len(shape)
        weight = kernel(np.array([1, 10]).reshape(1, 1, 2, *shape[1:]))
        ones = [1] * half
        result = conv(images, weight, strides=ones, pads=[*[0] * half, 1, *[0] * (half - 1)], dilations=ones)
        assert result.total.ravel().tolist() == expected


class TestExactness:
    """65793 * 255 + 1 is 2^24, the first number that float32 may not tell from its neighbour."""

    WEIGHT = np.array([127] * 518 + [7], dtype=np.int32).reshape(1, -1, 1, 1)

    def chosen(self, weight: Array, addend: list[int] | None, largest: int = 255) -> type:
        images = np.array([3, -largest], dtype=np.int32)
        return products._exact_dtype(images, weight, None if addend is None else np.array(addend, dtype=np.int32))

    def test_float32_is_enough_up_to_the_bound(self) -> None:
        assert self.chosen(self.WEIGHT, None) is np.float32
        assert self.chosen(-self.WEIGHT, [0]) is np.float32

    @pytest.mark.parametrize("addend", [1, -1])
    def test_float64_is_taken_from_the_bound_on(self, addend: int) -> None:
        assert self.chosen(self.WEIGHT, [addend]) is np.float64

    def test_the_largest_channel_decides(self) -> None:
        both = np.concatenate([np.zeros_like(self.WEIGHT), self.WEIGHT])
        assert self.chosen(both, [2**23, 0]) is np.float32
        assert self.chosen(both, [0, 1]) is np.float64

    def test_the_largest_code_that_occurs_decides(self) -> None:
        assert self.chosen(16 * self.WEIGHT, None, largest=15) is np.float32

    def test_a_bias_between_two_codes_needs_float64(self) -> None:
        halves = products._in_units(bias([1], step=0.5), np.ones(1, dtype=np.float32))
        assert products._exact_dtype(self.WEIGHT, self.WEIGHT[:, :1], halves) is np.float64


class TestMultiply:
    LEFT = codes([[1, 2], [3, 4]], step=0.5, zero=1)  # 0 1, 2 3

    def test_product_with_bias(self) -> None:
        result = multiply(self.LEFT, kernel([[1, 10, 100], [2, 20, 127]]), bias([5, 6, 7], step=0.5))
        assert result.total.tolist() == [[7, 26, 134], [13, 86, 588]]

    def test_transposed_weight(self) -> None:
        result = multiply(self.LEFT, kernel([[1, 2], [10, 20]], steps=[[2.0], [4.0]]), transpose_right=True)
        assert result.total.tolist() == [[2, 20], [8, 80]]
        assert result.step.tolist() == [1.0, 2.0]

    def test_activations_meet_in_batches_that_broadcast(self) -> None:
        right = codes([[[3], [4]], [[5], [6]]], step=0.25, zero=2)  # 1 2 and 3 4
        result = multiply(self.LEFT, right)
        assert result.total.tolist() == [[[2], [8]], [[4], [18]]]
        assert result.step.item() == 0.125

    def test_sums_beyond_24_bits_are_exact(self) -> None:
        left, right = codes(np.full((1, 1100), 255)), kernel(np.full((1100, 1), 127))
        assert multiply(left, right, bias([2])).total.item() == 1100 * 255 * 127 + 2
