from __future__ import annotations

import math

import pytest
import torch

from dfq_plugin.synthesis.schedules import LearningRateRule, constant, reduce_on_plateau, warm_up_and_cosine


class TestReduceOnPlateau:
    def test_step_size_falls_to_a_tenth_after_patience_and_stops_at_the_floor(self) -> None:
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
        adapt = reduce_on_plateau(patience=2, min_learning_rate=0.01)(optimizer)
        rates = []
        for _ in range(10):
            adapt(1.0)
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.01] * 4)

    def test_step_size_stays_while_the_loss_falls(self) -> None:
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
        adapt = reduce_on_plateau(patience=2, min_learning_rate=0.01)(optimizer)
        for step in range(10):
            adapt(1.0 / (step + 1))
        assert optimizer.param_groups[0]["lr"] == 0.5


def rates(rule: LearningRateRule, steps: int) -> list[float]:
    """Step sizes that the steps are made with."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
    adapt = rule(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        adapt(1.0)
    return found


class TestWarmUpAndCosine:
    def test_rises_linearly_then_falls_along_a_cosine(self) -> None:
        found = rates(warm_up_and_cosine([40], 4), 40)
        assert found[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
        assert found[22] == pytest.approx(0.25)
        assert found[39] == pytest.approx(0.25 * (1 + math.cos(math.pi * 35 / 36)))

    def test_begins_anew_in_every_stage(self) -> None:
        found = rates(warm_up_and_cosine([40, 20], 4), 60)
        assert found[:40] == pytest.approx(rates(warm_up_and_cosine([40], 4), 40))
        assert found[40:] == pytest.approx(rates(warm_up_and_cosine([20], 4), 20))

    def test_rise_takes_at_most_a_tenth_of_a_stage(self) -> None:
        assert rates(warm_up_and_cosine([20], 100), 20)[:3] == pytest.approx([0.25, 0.5, 0.5])
        assert rates(warm_up_and_cosine([5], 100), 5)[0] == pytest.approx(0.5)


def test_constant_leaves_the_step_size() -> None:
    assert rates(constant, 5) == [0.5] * 5
