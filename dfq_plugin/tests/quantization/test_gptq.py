"""GPTQ: by hand, against a plain loop, and its laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfq_plugin.quantization import gptq
from dfq_plugin.quantization.gptq import (
    DAMPING,
    DAMPINGS,
    SecondMoments,
    best_codes,
    best_damping,
    compensated,
    damped,
    elimination_of,
    gptq_codes,
    moments_of,
    refined,
)


def limits(weights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    shape = (*weights.shape[:2], 1)
    return torch.full(shape, low).to(weights), torch.full(shape, high).to(weights)


def random_case(groups: int, out: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and the second moments of inputs that hang together."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(groups, out, inputs, generator=generator, dtype=torch.float64) * 3
    mixing = torch.randn(groups, inputs, inputs, generator=generator, dtype=torch.float64)
    samples = mixing @ torch.randn(groups, inputs, 200, generator=generator, dtype=torch.float64) + 0.5
    return weights, samples @ samples.transpose(1, 2)


def error_of(codes: Tensor, weights: Tensor, moments: Tensor) -> Tensor:
    """Of each row, (groups, out)."""
    gap = codes - weights
    return torch.einsum("goi,gij,goj->go", gap, moments, gap)


def test_second_weight_makes_up_for_the_first() -> None:
    # 0.4 goes to 0; the other, pulled by half of that error, goes from 0.4 to 0.6 and so to 1, where nearest gives 0.
    weights, moments = torch.tensor([[[0.4, 0.4]]]), torch.tensor([[[4.0, 2.0], [2.0, 4.0]]])
    assert gptq_codes(weights, elimination_of(damped(moments)), *limits(weights, -4, 3)).tolist() == [[[0.0, 1.0]]]


def test_input_of_the_larger_moment_comes_first() -> None:
    weights, moments = torch.tensor([[[0.4, 0.4]]]), torch.tensor([[[4.0, 2.0], [2.0, 5.0]]])
    assert gptq_codes(weights, elimination_of(damped(moments)), *limits(weights, -4, 3)).tolist() == [[[1.0, 0.0]]]


def test_damping_raises_the_diagonal_by_a_share_of_its_mean() -> None:
    found = damped(torch.tensor([[[2.0, 1.0], [1.0, 6.0]]]), 0.3)
    torch.testing.assert_close(found, torch.tensor([[[0.8, 0.25], [0.25, 1.8]]]))


def test_damping_is_small_where_halves_say_the_same_and_large_where_they_contradict() -> None:
    weights = torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(0)) * 4
    edges = limits(weights, -8, 7)
    alike, opposite = (torch.tensor([[[1.0, sign], [sign, 1.0]]]) for sign in (0.9, -0.9))
    assert best_damping(weights, [alike, alike], *edges) == DAMPING
    assert best_damping(weights, [alike, opposite], *edges) == max(DAMPINGS)
    assert best_damping(weights, [alike], *edges) == DAMPING


def test_damping_has_the_least_error_on_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, exact, inputs = noisy_case()
    del exact
    halves = [part @ part.transpose(1, 2) for part in (inputs[:, :, :4], inputs[:, :, 4:8])]
    edges = limits(weights, -4, 3)

    def error(damping: float) -> float:
        total = 0.0
        for taught, other in (halves, halves[::-1]):
            codes = gptq_codes(weights, elimination_of(damped(taught, damping)), *edges)
            total += float(error_of(codes, weights, other).sum() / error_of(weights, 0 * weights, other).sum())
        return total

    monkeypatch.setattr(gptq, "DAMPINGS", tuple(reversed(DAMPINGS)))  # no matter in which order they are tried
    errors = {damping: error(damping) for damping in DAMPINGS}
    found = best_damping(weights, halves, *edges)
    assert errors[found] == min(errors.values())
    assert found != DAMPING


@pytest.mark.parametrize("times", [1e-4, 1.0, 1e4])
def test_halves_count_the_same_however_large_their_inputs_are(times: float) -> None:
    weights = torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(0)) * 4
    # Codes that are fitted to the strong half want a damping of 1 on the other, those fitted to the weak one 0.01.
    strong, weak = (torch.tensor([[[1.0, by], [by, 1.0]]]) for by in (0.9, 0.2))
    assert best_damping(weights, [strong, times * weak], *limits(weights, -8, 7)) == 1.0


def plain_loop(weights: Tensor, moments: Tensor, low: float, high: float) -> Tensor:
    """Optimal Brain Compression in a fixed order, one row at a time, with an inverse of its own at each step."""
    damped = moments / moments.diagonal().mean() + DAMPING * torch.eye(len(moments))
    codes = torch.zeros_like(weights)
    order = moments.diagonal().argsort(descending=True, stable=True).tolist()
    for row, code in zip(weights.clone(), codes, strict=True):
        for at in range(len(order)):
            rest = order[at:]
            inverse = torch.linalg.inv(damped[rest][:, rest])
            code[rest[0]] = row[rest[0]].round().clamp(low, high)
            row[rest] -= (row[rest[0]] - code[rest[0]]) / inverse[0, 0] * inverse[0]
    return codes


@pytest.mark.parametrize("together", [128, 3, 1])
def test_codes_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(gptq, "TOGETHER", together)
    weights, moments = random_case(2, 4, 10)
    found = gptq_codes(weights, elimination_of(damped(moments)), *limits(weights, -4, 3))
    for group in range(2):
        assert torch.equal(found[group], plain_loop(weights[group], moments[group], -4, 3))


@pytest.mark.parametrize("seed", range(3))
def test_error_on_the_inputs_is_much_smaller_than_that_of_rounding_to_nearest(seed: int) -> None:
    weights, moments = random_case(3, 8, 20, seed)

    found = gptq_codes(weights, elimination_of(damped(moments)), *limits(weights, -8, 7))
    assert found.min() >= -8
    assert found.max() <= 7
    nearest = weights.round().clamp(-8, 7)
    assert error_of(found, weights, moments).sum() < 0.5 * error_of(nearest, weights, moments).sum()


def test_inputs_that_are_always_zero_round_to_nearest() -> None:
    weights = torch.tensor([[[0.4, 1.6, -2.2]]])
    assert gptq_codes(weights, elimination_of(damped(torch.zeros(1, 3, 3))), *limits(weights, -4, 3)).tolist() == [
        [[0.0, 2.0, -2.0]]
    ]


def test_refining_ends_where_no_single_code_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "SWEEPS", 50)
    weights, moments = random_case(2, 3, 6)
    moments = damped(moments)
    edges = limits(weights, -4, 3)
    codes = refined(weights.round().clamp(-4, 3), weights, moments, *edges)
    least = error_of(codes, weights, moments)
    assert (least <= error_of(weights.round().clamp(-4, 3), weights, moments)).all()
    for at in range(6):
        for move in (-1, 1):
            moved = codes.clone()
            moved[:, :, at] = (moved[:, :, at] + move).clamp(-4, 3)
            assert (error_of(moved, weights, moments) >= least - 1e-9).all()


def test_refining_never_makes_gptq_worse() -> None:
    weights, moments = random_case(4, 8, 30, seed=3)
    moments, edges = damped(moments), limits(weights, -4, 3)
    codes = gptq_codes(weights, elimination_of(moments), *edges)
    found = refined(codes, weights, moments, *edges)
    assert (error_of(found, weights, moments) <= error_of(codes, weights, moments) + 1e-9).all()
    assert not torch.equal(found, codes)


def test_each_row_takes_the_step_of_its_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "SWEEPS", 0)
    weights, moments = random_case(2, 5, 8)
    edges, factors = limits(weights, -4, 3), torch.tensor([0.5, 1.0, 2.0])
    codes, factor = best_codes(weights, damped(moments), *edges, factors)
    found = error_of(codes * factor, weights, damped(moments))
    for one in factors:
        alone, _ = best_codes(weights, damped(moments), *edges, one.reshape(1))
        assert (found <= error_of(alone * one, weights, damped(moments)) + 1e-9).all()
    assert len(factor.unique()) > 1


def test_trying_few_steps_at_once_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, moments = random_case(2, 5, 8)
    edges, factors = limits(weights, -4, 3), torch.linspace(0.5, 2.0, 7)
    at_once = best_codes(weights, damped(moments), *edges, factors)
    monkeypatch.setattr(gptq, "MOST_TRIED", 3 * weights.numel())
    for whole, found in zip(at_once, best_codes(weights, damped(moments), *edges, factors), strict=True):
        assert torch.equal(found, whole)


def test_weights_on_the_grid_stay_where_they_are() -> None:
    weights, moments = random_case(2, 5, 8)
    weights = weights.round().clamp(-4, 3)
    codes, factor = best_codes(weights, damped(moments), *limits(weights, -4, 3), torch.tensor([0.9, 1.0, 1.1]))
    assert torch.equal(codes, weights)
    assert factor.unique().tolist() == [1.0]


def of_one_input(found: float, cross: float, exact: float) -> SecondMoments:
    return SecondMoments(torch.tensor([[[found]]]), torch.tensor([[[cross]]]), torch.tensor([[[exact]]]))


def halves_of(exact: Tensor, inputs: Tensor) -> list[SecondMoments]:
    parts = zip(exact.chunk(2, dim=2), inputs.chunk(2, dim=2), strict=True)
    return [moments_of(*part) for part in parts]


@pytest.fixture
def _gain_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "LEAST_GAIN", 1.0)
    monkeypatch.setattr(gptq, "LARGEST_GAIN", 1.0)


@pytest.mark.usefixtures("_gain_is_one")
def test_weights_become_the_ridge_regression_where_halves_agree_and_stay_where_they_contradict() -> None:
    weight, half = torch.tensor([[[2.0]]]), of_one_input(4.0, 2.0, 3.0)  # wants 1, the other half 3
    assert compensated(weight, [half, half]).item() == pytest.approx(2.0 * (2.0 + 0.04) / (4.0 + 0.04))
    assert compensated(weight, [half, of_one_input(4.0, 6.0, 10.0)]).item() == 2.0
    assert compensated(weight, [half]).item() == 2.0


@pytest.mark.usefixtures("_gain_is_one")
@pytest.mark.parametrize("times", [1e-4, 1.0, 1e4])
def test_weights_go_as_far_however_large_the_inputs_of_a_half_are(
    times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gptq, "RIDGES", (1e-6,))
    # The first half wants 1 and gains by all of the way to 1.8; the other wants 1.8 and loses on most of the way to 1.
    first, second = of_one_input(4.0, 2.0, 3.0), of_one_input(4.0 * times, 3.6 * times, 4.0 * times)
    found = compensated(torch.tensor([[[2.0]]]), [first, second]).item()
    fitted = 2.0 * (2.0 + 3.6 * times) / (4.0 + 4.0 * times)
    assert (2.0 - found) / (2.0 - fitted) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("times", "gain"), [(1.1, 1.1), (2.0, 1.25), (0.5, 0.8), (-2.0, 0.8)])
def test_weight_of_a_single_input_rises_as_in_float(times: float, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # An input that is 1.1 times that in float needs the weight divided by 1.1. Only limited gains are believed.
    monkeypatch.setattr(gptq, "WAYS", (0.0,))
    half = of_one_input(times**2, times, 1.0)
    assert compensated(torch.tensor([[[3.0]]]), [half, half]).item() == pytest.approx(3.0 / gain)


@pytest.mark.usefixtures("_gain_is_one")
@pytest.mark.parametrize("places", [8, 20, 200])
def test_weights_are_fitted_as_serves_the_other_half_best(places: int) -> None:
    weights, exact, inputs = (value.double() for value in noisy_case(places))
    halves = halves_of(exact, inputs)

    def fitted(ridge: float, way: float, exact: Tensor, inputs: Tensor) -> Tensor:
        raised = ridge * inputs.square().sum() / inputs.shape[1] * torch.eye(inputs.shape[1], dtype=torch.float64)
        back: Tensor = (exact @ inputs.mT + raised) @ torch.linalg.inv(inputs @ inputs.mT + raised)
        return weights + way * (weights @ back - weights)

    def error(ridge: float, way: float) -> float:
        parts, total = list(zip(exact.chunk(2, dim=2), inputs.chunk(2, dim=2), strict=True)), 0.0
        for taught, (aim, found) in ((parts[0], parts[1]), (parts[1], parts[0])):
            gap = fitted(ridge, way, *taught) @ found - weights @ aim
            total += float(gap.square().sum() / (weights @ aim).square().sum())
        return total

    best = min(((ridge, way) for ridge in gptq.RIDGES for way in gptq.WAYS), key=lambda choice: error(*choice))
    torch.testing.assert_close(compensated(weights, halves), fitted(*best, exact, inputs))


def test_output_of_compensated_weights_rises_as_far_as_that_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "LEAST_GAIN", 0.5)  # one row needs less than what is usually believed
    weights, exact, inputs = noisy_case()
    outputs = compensated(weights, halves_of(exact, inputs)) @ inputs
    aim = weights @ exact
    torch.testing.assert_close((outputs * aim).sum(dim=2), aim.square().sum(dim=2), rtol=1e-4, atol=1e-4)


def test_moments_of_batches_add_up() -> None:
    _, exact, inputs = noisy_case()
    parts = zip(exact.split(90, dim=2), inputs.split(90, dim=2), strict=True)
    first, second, third = (moments_of(*part) for part in parts)
    together, whole = first + second + third, moments_of(exact, inputs)
    for name in ("found", "cross", "exact"):
        torch.testing.assert_close(getattr(together, name), getattr(whole, name))
    torch.testing.assert_close(whole.cross, torch.einsum("gim,gjm->gij", exact, inputs))


def test_weights_stay_where_nothing_is_wrong_with_the_inputs_or_nothing_is_known_of_them() -> None:
    random = torch.Generator().manual_seed(0)
    weights, inputs = torch.randn(2, 3, 4, generator=random), torch.randn(2, 4, 9, generator=random)
    inputs[1] = 0.0  # a group that no image reaches
    torch.testing.assert_close(compensated(weights, halves_of(inputs, inputs)), weights)


def test_compensated_weights_bring_the_output_nearer_to_that_in_float() -> None:
    weights, exact, inputs = noisy_case()

    def error(tried: Tensor) -> float:
        return float((tried @ inputs - weights @ exact).square().sum())

    assert error(compensated(weights, halves_of(exact, inputs))) < 0.5 * error(weights)


def noisy_case(places: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, inputs in float, and as they are: too large, noisy, one of them another one."""
    random = torch.Generator().manual_seed(0)
    weights, exact = torch.randn(1, 5, 6, generator=random), torch.randn(1, 6, places, generator=random)
    inputs = 1.3 * exact + 0.3 * torch.randn(1, 6, places, generator=random)
    inputs[:, 0] = exact[:, 1]
    return weights, exact, inputs
