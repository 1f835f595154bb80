"""Moving averages of minimum and maximum, against the average written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dfq_plugin.extremes import MovingExtremes, cover_channels


def test_first_batch_is_taken_as_it_is() -> None:
    seen = MovingExtremes()
    seen.update(torch.tensor([[-1.0, 3.0], [0.5, 2.0]]))
    assert (seen.low, seen.high) == (-1.0, 3.0)


def test_average_weighs_batches_by_powers_of_nine_tenths() -> None:
    seen, highs = MovingExtremes(), [1.0, 4.0, 2.0]
    for high in highs:
        seen.update(torch.tensor([-2.0 * high, high]))
    expected = (0.81 * 1.0 + 0.9 * 4.0 + 2.0) / (0.81 + 0.9 + 1.0)
    assert seen.high == pytest.approx(expected)
    assert seen.low == pytest.approx(-2.0 * expected)


def test_constant_input_gives_that_constant_from_the_first_batch_on() -> None:
    seen = MovingExtremes()
    for _ in range(30):  # where the rule of the released codes is a thousand times too high
        seen.update(torch.tensor([0.0, 1.0]))
        assert seen.low == 0.0
        assert seen.high == pytest.approx(1.0)


def test_state_lets_another_one_go_on() -> None:
    seen = MovingExtremes()
    seen.update(torch.tensor([0.0, 1.0]))
    resumed = MovingExtremes(*seen.state)
    for each in (seen, resumed):
        each.update(torch.tensor([-1.0, 5.0]))
    assert resumed.state == seen.state


WEIGHT = torch.tensor([[[1.0, -2.0]], [[0.0, 0.0]], [[3.0, 5.0]]])  # three channels, the second dead


@pytest.mark.parametrize("shape", [(3, 1, 1), (1,)])
def test_a_symmetric_range_reaches_the_largest_magnitude_of_each_channel(shape: tuple[int, ...]) -> None:
    scale = torch.zeros(shape)
    cover_channels(SimpleNamespace(get_trainable_params=lambda: {"scale": scale}), WEIGHT)
    assert scale.flatten().tolist() == pytest.approx([2.0, 0.05, 5.0] if len(shape) == 3 else [5.0])


def test_an_asymmetric_range_goes_from_the_least_to_the_largest_value_and_holds_zero() -> None:
    low, reach = torch.zeros(3, 1, 1), torch.zeros(3, 1, 1)
    ranges = {"input_low": low, "input_range": reach}
    cover_channels(SimpleNamespace(get_trainable_params=lambda: ranges), WEIGHT)
    assert low.flatten().tolist() == [-2.0, 0.0, 0.0]
    assert reach.flatten().tolist() == pytest.approx([3.0, 0.05, 5.0])


def test_a_weight_that_is_zero_throughout_gets_some_range() -> None:
    scale = torch.zeros(2, 1)
    cover_channels(SimpleNamespace(get_trainable_params=lambda: {"scale": scale}), torch.zeros(2, 4))
    assert scale.flatten().tolist() == [1.0, 1.0]
