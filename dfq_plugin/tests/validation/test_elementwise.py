"""Sums, products and functions of codes, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dfq_plugin.tests.validation.samples import codes, grid
from dfq_plugin.validation.arithmetic import Codes, Grid
from dfq_plugin.validation.elementwise import add, concatenate, leaky, logistic, look_up, multiply_elements

SIGMOID = [0.02412700653076172, 0.5249791741371155, 0.7858349084854126, 0.9972680807113647]


class TestAdd:
    def test_steps_and_zero_points_are_those_of_each_side(self) -> None:
        left, right = codes([10, 6], step=0.5, zero=8), codes([20, 16], step=0.25, zero=16)  # 1, -1 and 1, 0
        found = add(left, right, grid(0.5, 4))
        assert found is not None
        assert found.tolist() == [8, 2]

    @pytest.mark.parametrize(("zero", "expected"), [(0, 0), (1, 2), (2, 2), (3, 4)])
    def test_zero_point_is_added_before_rounding(self, zero: int, expected: int) -> None:
        found = add(codes([1, 1], step=0.5), codes([0, 0], step=0.5), grid(zero=zero))  # 0.5 + zero, to the even number
        assert found is not None
        assert found.tolist() == [expected] * 2

    def test_codes_saturate(self) -> None:
        found = add(codes([0, 255], zero=10), codes([0, 255], zero=10), grid(zero=12))  # -20 and 490
        assert found is not None
        assert found.tolist() == [0, 255]

    @pytest.mark.parametrize(("left", "right"), [((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((2, 3), ())])
    def test_operands_broadcast(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        first, second = np.arange(np.prod(left)).reshape(left), 10 * np.ones(right, dtype=int)
        found = add(codes(first), codes(second), grid())
        assert found is not None
        assert found.tolist() == (first + second).tolist()


@pytest.fixture(scope="module")
def near_tie() -> tuple[Codes, Codes, Grid]:
    """Two operands of shape (1, 2) whose sum rounds up in one order and down in the other."""
    random = np.random.default_rng(0)
    for _ in range(10_000):
        step = float(np.float32(random.uniform(0.01, 0.1)))
        left, right = (codes([[random.integers(256)] * 2], step / parts) for parts in (6, 3))
        one, other = add(left, right, grid(step)), add(right, left, grid(step))
        if one is not None and other is not None and not np.array_equal(one, other):
            return left, right, grid(step)
    pytest.fail("no two operands are that close to a tie")


class TestOrderOfAdd:
    """Which operand is added first decides near ties."""

    def test_right_operand_is_added_to_the_offset_first(self) -> None:
        left, right = codes([1, 1], step=0.0125 / 6), codes([31, 31], step=0.0125 / 3)  # 10.5, as onnxruntime adds it
        found, swapped = add(left, right, grid(0.0125)), add(right, left, grid(0.0125))
        assert found is not None
        assert swapped is not None
        assert (found.tolist(), swapped.tolist()) == ([11, 11], [10, 10])

    @pytest.mark.parametrize("entries", [1, 2])
    def test_right_operand_may_be_stretched(self, near_tie: tuple[Codes, Codes, Grid], entries: int) -> None:
        left, right, target = near_tie
        assert np.array_equal(add(left, right.moved(right.codes[:, :entries]), target), add(left, right, target))  # type: ignore[arg-type]

    def test_nothing_is_claimed_when_the_left_operand_is_stretched(self, near_tie: tuple[Codes, Codes, Grid]) -> None:
        left, right, target = near_tie
        assert add(left.moved(left.codes[:, :1]), right, target) is None

    def test_nothing_is_claimed_of_a_single_entry(self, near_tie: tuple[Codes, Codes, Grid]) -> None:
        left, right, target = near_tie
        assert add(left.moved(left.codes[:, :1]), right.moved(right.codes[:, :1]), target) is None

    def test_both_orders_mostly_agree(self) -> None:
        found = add(codes([[7]], step=0.3), codes([[2, 3]], step=0.2), grid(0.1))
        assert found is not None
        assert found.tolist() == [[25, 27]]


class TestMultiply:
    def test_product_is_scaled_and_shifted(self) -> None:
        left, right = codes([10, 6], step=0.5, zero=8), codes([20], step=0.25, zero=16)  # 1, -1 times 1
        assert multiply_elements(left, right, grid(0.25, 100)).tolist() == [104, 96]

    @pytest.mark.parametrize(("zero", "expected"), [(0, 0), (1, 2), (2, 2), (3, 4)])
    def test_zero_point_is_added_before_rounding(self, zero: int, expected: int) -> None:
        assert multiply_elements(codes([1]), codes([1]), grid(2.0, zero)).tolist() == [expected]

    def test_multiplier_is_rounded_to_float32_twice(self) -> None:
        assert pytest.approx(0.5) == 6 * 0.0705 * 0.028 / 0.023688
        found = multiply_elements(codes([1], step=0.0705), codes([6], step=0.028), grid(0.023688))
        assert found.tolist() == [1]  # a single rounding gives a tie, which would go to 0

    def test_codes_saturate(self) -> None:
        assert multiply_elements(codes([255, 0], zero=9), codes([255]), grid()).tolist() == [255, 0]


class TestConcatenate:
    def test_parts_come_to_one_grid_along_the_axis(self) -> None:
        parts = [codes([[4], [6]], step=0.5, zero=2), codes([[9, 10], [11, 12]], step=0.25, zero=8)]
        # 1, 2 and 0.25 0.5, 0.75 1 in steps of a half
        assert concatenate(parts, 1, grid(0.5, 10)).tolist() == [[12, 10, 11], [14, 12, 12]]

    def test_codes_of_the_same_grid_stay(self) -> None:
        part = codes([0, 77, 255], step=0.1, zero=3)
        assert concatenate([part, part], 0, grid(0.1, 3)).tolist() == [0, 77, 255] * 2


class TestFunctions:
    def test_every_code_is_looked_up(self) -> None:
        source = codes([[0, 8], [16, 255]], step=0.5, zero=8)  # -4 0, 4 123.5
        found = look_up(source, lambda values: values * 2, grid(1.0, 10))
        assert found.tolist() == [[2, 10], [18, 255]]

    def test_logistic_is_close_to_the_true_one(self) -> None:
        values = np.linspace(-30, 30, 10_001, dtype=np.float32)
        exact = 1 / (1 + np.exp(-values.astype(np.float64)))
        found = logistic(values)
        assert np.abs(found - exact).max() < 3e-7
        assert found.min() >= 0
        assert found[5000] == 0.5
        assert found.dtype == np.float32

    def test_logistic_rounds_as_the_kernel_does(self) -> None:
        # Values of onnxruntime's Sigmoid in float32 where rounding every product would give another last bit.
        values = np.array([-3.7, 0.1, 1.3, 5.9], dtype=np.float32)
        assert logistic(values).tolist() == SIGMOID

    def test_leaky_function_has_its_slope_below_zero(self) -> None:
        assert leaky(0.25)(np.array([-4.0, 0.0, 4.0], dtype=np.float32)).tolist() == [-1.0, 0.0, 4.0]
