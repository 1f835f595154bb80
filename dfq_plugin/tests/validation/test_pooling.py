"""Pools on codes, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dfq_plugin.tests.validation.samples import codes, grid
from dfq_plugin.validation.pooling import Windows, average_pool, max_pool, pool_globally, same_pads


def windows(kernel: list[int], ceil: bool = False, **changes: list[int]) -> Windows:
    half = len(kernel)
    options = {"strides": [1] * half, "pads": [0] * 2 * half, "dilations": [1] * half, **changes}
    return Windows(kernel, options["strides"], options["pads"], options["dilations"], ceil)


class TestWindows:
    @pytest.mark.parametrize(
        ("size", "stride", "pads", "ceil", "expected"),
        [
            *((6, 2, [0, 0], False, 2), (6, 2, [0, 0], True, 3), (7, 2, [0, 0], True, 3), (6, 3, [1, 1], True, 3)),
            *((3, 2, [0, 3], True, 2), (3, 2, [1, 2], True, 2), (3, 2, [2, 1], True, 3)),
        ],
    )
    def test_last_window_sticks_out_only_with_ceil_mode_and_starts_inside(
        self, size: int, stride: int, pads: list[int], ceil: bool, expected: int
    ) -> None:
        assert Windows([3], [stride], pads, [1], ceil).count([size]) == [expected]

    def test_dilated_window_is_wider(self) -> None:
        assert windows([3], dilations=[2]).count([7]) == [3]

    def test_places_inside_are_counted_with_padding_or_without(self) -> None:
        over = windows([3, 2], ceil=True, strides=[2, 2], pads=[1, 0, 0, 1])
        # rows -1 0 1, 1 2 3, 3 4 5 of 5; columns 0 1, 2 3 of 3 with one of padding
        assert over.places_inside([5, 3], padded=False).tolist() == [[4, 2], [6, 3], [4, 2]]
        assert over.places_inside([5, 3], padded=True).tolist() == [[6, 6], [6, 6], [4, 4]]


class TestMaxPool:
    IMAGES = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)

    def test_largest_of_each_window(self) -> None:
        assert max_pool(self.IMAGES, windows([2, 3], strides=[1, 1])).tolist() == [[[[6, 7], [10, 11]]]]

    def test_padding_never_wins(self) -> None:
        found = max_pool(self.IMAGES, windows([2, 2], strides=[2, 3], pads=[1, 1, 0, 0]))
        assert found.tolist() == [[[[0, 3], [8, 11]]]]
        negative = -self.IMAGES.astype(np.float32) - 1
        assert max_pool(negative, windows([2, 2], strides=[2, 3], pads=[1, 1, 0, 0])).max() == -1

    def test_dilations_and_ceil_mode(self) -> None:
        assert max_pool(self.IMAGES, windows([2, 2], dilations=[2, 3])).tolist() == [[[[11]]]]
        assert max_pool(self.IMAGES, windows([2, 2], ceil=True, strides=[2, 2])).tolist() == [[[[5, 7], [9, 11]]]]

    def test_one_spatial_axis(self) -> None:
        assert max_pool(self.IMAGES[0], windows([2], strides=[2])).tolist() == [[[1, 3], [5, 7], [9, 11]]]


class TestAveragePool:
    IMAGES = codes(np.arange(12).reshape(1, 1, 3, 4) * 4 + 8, step=0.5, zero=8)  # 0 2 4 6, 8 10 12 14, 16 18 20 22

    def test_average_of_each_window_is_scaled_then_shifted(self) -> None:
        found = average_pool(self.IMAGES, windows([2, 2]), grid(0.5, 3), count_padding=False)
        assert found.tolist() == [[[[13, 17, 21], [29, 33, 37]]]]

    @pytest.mark.parametrize(("zero", "expected"), [(0, 0), (1, 2), (2, 2), (3, 4)])
    def test_zero_point_is_added_before_rounding(self, zero: int, expected: int) -> None:
        images = codes([[[[0, 1, 1]]]])
        found = average_pool(images, windows([1, 2], strides=[1, 2]), grid(zero=zero), count_padding=False)
        assert found.tolist() == [[[[expected]]]]  # 0.5 + zero, to the even number

    def test_sum_is_divided_by_the_number_before_the_step(self) -> None:
        images = codes(np.ones((1, 1, 1, 7)), step=0.09)  # 3.5 steps, as onnxruntime rounds it
        found = average_pool(images, windows([1, 6]), grid(0.025714288), count_padding=False)
        assert found.tolist() == [[[[4, 4]]]]

    def test_padding_counts_only_when_asked(self) -> None:
        over = windows([2, 2], strides=[2, 2], pads=[1, 1, 0, 0])
        plain = average_pool(self.IMAGES, over, grid(), count_padding=False)
        counted = average_pool(self.IMAGES, over, grid(), count_padding=True)
        assert plain.tolist() == [[[[0, 3], [12, 15]]]]
        assert counted.tolist() == [[[[0, 2], [6, 15]]]]  # 6 / 4 is 1.5, to 2; 24 / 4

    def test_places_beyond_the_padding_never_count(self) -> None:
        over = windows([2, 2], ceil=True, strides=[2, 2])
        found = average_pool(self.IMAGES, over, grid(), count_padding=True)
        assert found.tolist() == [[[[5, 9], [17, 21]]]]

    def test_codes_saturate(self) -> None:
        found = average_pool(codes([[[[0, 255, 255]]]]), windows([1, 2]), grid(0.25), count_padding=False)
        assert found.tolist() == [[[[255, 255]]]]

    def test_window_that_is_the_whole_image_is_a_global_pool(self) -> None:
        images, target = codes([[[[240, 41]]]], step=0.0795), grid(0.0795)  # 140.5, as onnxruntime rounds it
        assert average_pool(images, windows([1, 2]), target, count_padding=False).tolist() == [[[[140]]]]
        wider = codes([[[[240, 41], [240, 41]]]], step=0.0795)
        assert average_pool(wider, windows([1, 2]), target, count_padding=False).tolist() == [[[[141], [141]]]]


class TestGlobalPool:
    def test_step_and_number_make_one_divisor(self) -> None:
        images = codes([[[[2, 2, 2, 1, 1, 1]]]], step=0.057)  # 1.5 steps, as onnxruntime rounds it
        assert pool_globally(images, grid(0.057)).tolist() == [[[[1]]]]

    def test_average_is_scaled_then_rounded_then_shifted(self) -> None:
        images = codes([[[[9, 10], [11, 13]]]], step=0.5, zero=8)  # sum 11, average 1.375
        # 11 * 0.5 / (0.25 * 4) = 5.5 -> 6, + 3
        assert pool_globally(images, grid(0.25, 3)).tolist() == [[[[9]]]]

    def test_every_channel_and_image_has_its_own_average(self) -> None:
        images = codes(np.arange(16).reshape(2, 2, 2, 2))
        assert pool_globally(images, grid(0.5)).tolist() == [[[[3]], [[11]]], [[[19]], [[27]]]]

    def test_codes_saturate(self) -> None:
        assert pool_globally(codes([[[[200]]]]), grid(0.5)).tolist() == [[[[255]]]]
        assert pool_globally(codes([[[[0]]]], zero=9), grid(zero=5)).tolist() == [[[[0]]]]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "upper"),
    [(5, 3, 1, 1, [1, 1]), (6, 3, 2, 1, [0, 1]), (4, 3, 1, 2, [2, 2]), (4, 1, 3, 1, [0, 0]), (5, 4, 1, 1, [1, 2])],
)
def test_same_padding_keeps_the_size_over_the_stride(
    size: int, kernel: int, stride: int, dilation: int, upper: list[int]
) -> None:
    assert same_pads([size], [kernel], [stride], [dilation], more_at_end=True) == upper
    assert same_pads([size], [kernel], [stride], [dilation], more_at_end=False) == upper[::-1]


def test_same_pads_are_begin_of_each_axis_then_end() -> None:
    assert same_pads([6, 5], [3, 4], [2, 1], [1, 1], more_at_end=True) == [0, 1, 1, 2]
