"""Bit allocation: hand-computed choices, budgets kept, and plans that a later run takes over."""

from __future__ import annotations

import itertools

import pytest
import torch

from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization.allocation import allocate, bit_operations, size_in_bits
from dfq_plugin.student import ProductLayer

WIDTHS = (2, 3, 4, 8)


def losses_of(sensitivity: float) -> dict[int, float]:
    """Falls by four for each bit, as the square of a step does."""
    return {width: sensitivity * 4.0**-width for width in WIDTHS}


class TestAllocate:
    def test_takes_bits_where_it_costs_least(self) -> None:
        losses = {"fragile": losses_of(100.0), "robust": losses_of(1.0)}
        plan = allocate(losses, {}, size_in_bits({"fragile": 10, "robust": 10}), 60.0)
        assert plan.bits == {"fragile": 4, "robust": 2}
        assert plan.cost == 60.0
        assert plan.loss == pytest.approx(100 / 4**4 + 1 / 4**2)

    def test_counts_what_a_bit_saves(self) -> None:
        # Both lose alike, but a bit of the large one saves ten times as much.
        losses = {"large": losses_of(1.0), "small": losses_of(1.0)}
        plan = allocate(losses, {}, size_in_bits({"large": 100, "small": 10}), 320.0)
        assert plan.bits["small"] > plan.bits["large"]

    def test_gives_back_what_is_left(self) -> None:
        losses = {"large": {2: 0.1, 8: 0.0}, "small": {2: 0.02, 4: 0.0}}
        cost = size_in_bits({"large": 100, "small": 10})
        plan = allocate(losses, {}, cost, 799.0)  # 8 and 4 cost 840: the small one alone does not save enough
        assert plan.bits == {"large": 2, "small": 4}

    def test_of_more_than_enough_is_the_most_bits(self) -> None:
        plan = allocate({"a": losses_of(1.0)}, {}, size_in_bits({"a": 10}), 1e9)
        assert plan.bits == {"a": 8}

    def test_leaves_given_bits_alone_and_counts_them(self) -> None:
        losses = {"free": losses_of(1.0)}
        plan = allocate(losses, {"given": 8}, size_in_bits({"free": 10, "given": 10}), 120.0)
        assert plan.bits == {"given": 8, "free": 4}

    def test_is_not_taken_in_by_noise(self) -> None:
        # Four bits seem to lose more than three; three and nothing else is what they can have in common.
        losses = {"noisy": {2: 1.0, 3: 0.1, 4: 0.2, 8: 0.0}}
        assert allocate(losses, {}, size_in_bits({"noisy": 1}), 4.0).bits == {"noisy": 3}

    def test_is_near_the_best_of_all_plans(self) -> None:
        random = torch.Generator().manual_seed(1)
        counts = {str(i): int(torch.randint(10, 200, (), generator=random)) for i in range(5)}
        losses = {name: losses_of(float(torch.rand((), generator=random)) * 10) for name in counts}
        cost, budget = size_in_bits(counts), 4.0 * sum(counts.values())
        plans = (dict(zip(counts, widths, strict=True)) for widths in itertools.product(WIDTHS, repeat=5))
        best = min(sum(losses[n][b] for n, b in plan.items()) for plan in plans if cost(plan) <= budget)
        plan = allocate(losses, {}, cost, budget)
        assert plan.cost <= budget
        uniform = sum(options[4] for options in losses.values())
        assert plan.loss <= best + 0.2 * (uniform - best)

    def test_of_an_impossible_budget_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="cost at least 20, over the budget of 10; raise it or allow fewer bits"):
            allocate({"a": losses_of(1.0)}, {}, size_in_bits({"a": 10}), 10.0)


class TestCosts:
    def test_size_is_weights_times_bits(self) -> None:
        assert size_in_bits({"a": 3, "b": 5})({"a": 4, "b": 8, "activation": 4}) == 52.0

    def test_operations_multiply_the_bits_of_both_operands(self) -> None:
        layers = [
            ProductLayer("first", "w1", None, "weight1", "input1"),
            ProductLayer("second", "w2", None, "weight2", None),
        ]
        cost = bit_operations(layers, {"first": 10, "second": 2})
        assert cost({"weight1": 4, "input1": 8, "weight2": 2}) == 10 * 4 * 8 + 2 * 2 * 32  # the float operand has 32

    def test_one_quantizer_that_two_layers_read_counts_in_both(self) -> None:
        layers = [ProductLayer(name, name, None, f"weight {name}", "shared") for name in ("a", "b")]
        cost = bit_operations(layers, {"a": 1, "b": 1})
        bits = {"weight a": 4, "weight b": 4, "shared": 8}
        assert cost(bits) - cost({**bits, "shared": 4}) == 32.0
