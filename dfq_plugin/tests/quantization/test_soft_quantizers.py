"""Quantizers that can be trained: where they start, what they give, and their gradients by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfq_plugin.quantization.soft_quantizers import DroppingQuantizer, SoftRounding, random_mask
from dfq_plugin.quantization.squant import on_grid
from dfq_plugin.student import Grid

WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(2))
STEPS = torch.tensor([0.1, 0.2, 0.3, 0.4])
BY_CHANNEL = Grid(STEPS, torch.zeros(4, dtype=torch.int64), -7, 7, axis=0)
UNSIGNED = Grid(torch.tensor(0.5), torch.tensor(0), 0, 15, axis=None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaped(steps: Tensor) -> Tensor:
    return steps.reshape(-1, 1, 1, 1)


class TestSoftRounding:
    def test_starts_halfway_between_the_weight_and_its_squant_rounding(self) -> None:
        rounding = SoftRounding(WEIGHT, BY_CHANNEL)
        inside = (WEIGHT / shaped(STEPS)).abs() < 6.9
        middle = (WEIGHT + on_grid(WEIGHT, BY_CHANNEL)) / 2
        assert torch.allclose(rounding(WEIGHT)[inside], middle[inside], atol=1e-5)

    def test_ends_in_the_squant_rounding_when_nothing_was_learned(self) -> None:
        step, codes = SoftRounding(WEIGHT, BY_CHANNEL).result()
        assert torch.equal(step, shaped(STEPS))
        inside = (WEIGHT / shaped(STEPS)).abs() < 6.0
        assert torch.equal((codes * step)[inside], on_grid(WEIGHT, BY_CHANNEL)[inside])

    def test_codes_stay_in_range_and_next_to_the_weight(self) -> None:
        rounding = SoftRounding(WEIGHT, BY_CHANNEL)
        with torch.no_grad():
            rounding.logits.copy_(torch.randn(WEIGHT.shape, generator=generator()) * 9)
        _, codes = rounding.result()
        assert torch.equal(codes, codes.round())
        assert codes.abs().max() <= 7
        scaled = (WEIGHT / shaped(STEPS)).clamp(-7, 7)
        assert (codes - scaled).abs().max() <= 1.0
        assert ((codes >= scaled) == (rounding.logits >= 0))[scaled.abs() < 6].all()

    def test_the_step_moves_without_moving_the_codes(self) -> None:
        rounding = SoftRounding(WEIGHT, BY_CHANNEL)
        before, codes_before = rounding(WEIGHT), rounding.result()[1]
        with torch.no_grad():
            rounding.step_ratio.mul_(1.5)
        assert torch.allclose(rounding(WEIGHT), before * 1.5)
        step, codes = rounding.result()
        assert torch.equal(codes, codes_before)
        assert torch.allclose(step, shaped(STEPS) * 1.5)

    def test_slope_over_the_step_is_the_soft_code(self) -> None:
        rounding = SoftRounding(WEIGHT, BY_CHANNEL)
        value = rounding(WEIGHT)
        value.sum().backward()
        assert torch.allclose(rounding.step_ratio.grad, value.detach().sum(dim=(1, 2, 3), keepdim=True), atol=1e-4)  # type: ignore[arg-type]

    def test_indecision_counts_fractions_in_the_middle_and_none_at_the_ends(self) -> None:
        rounding = SoftRounding(torch.zeros(1, 1, 1, 4), Grid(torch.ones(1), torch.zeros(1), -7, 7, axis=0))
        with torch.no_grad():
            rounding.logits.copy_(torch.tensor([-9.0, 9.0, 0.0, 0.0]).reshape(1, 1, 1, 4))
        assert rounding.indecision(2.0).item() == pytest.approx(2.0)  # h = 0, 1, 0.5, 0.5
        assert rounding.indecision(20.0).item() == pytest.approx(2.0)

    def test_takes_one_step_for_the_whole_weight_and_steps_of_the_second_axis(self) -> None:
        whole = SoftRounding(WEIGHT, Grid(torch.tensor(0.2), torch.tensor(0), -7, 7, axis=None))
        assert whole.result()[0].shape == (1, 1, 1, 1)
        columns = SoftRounding(WEIGHT, Grid(STEPS[:3], torch.zeros(3), -7, 7, axis=1))
        assert columns.result()[0].flatten().tolist() == STEPS[:3].tolist()


class TestDroppingQuantizer:
    def test_without_drops_rounds_to_the_grid(self) -> None:
        values = torch.tensor([-1.0, 0.2, 0.3, 3.1, 9.0])
        quantizer = DroppingQuantizer(UNSIGNED, 0.0, generator())
        assert quantizer(values).tolist() == [0.0, 0.0, 0.5, 3.0, 7.5]
        assert quantizer.limits() == (0.0, 7.5)

    def test_keeps_the_zero_point(self) -> None:
        quantizer = DroppingQuantizer(Grid(torch.tensor(0.5), torch.tensor(4), 0, 15, axis=None), 0.0, generator())
        assert quantizer(torch.tensor([-9.0, -1.3, 9.0])).tolist() == [-2.0, -1.5, 5.5]
        with torch.no_grad():
            quantizer.step_ratio.mul_(2.0)
        assert quantizer.limits() == (-4.0, 11.0)

    def test_drops_as_often_as_asked_and_leaves_those_values_alone(self) -> None:
        values = torch.rand(100_000, generator=generator(1)) * 9 + 0.01
        output = DroppingQuantizer(UNSIGNED, 0.25, generator())(values)
        alone = output == values
        assert alone.float().mean().item() == pytest.approx(0.25, abs=0.01)
        rounded = DroppingQuantizer(UNSIGNED, 0.0, generator())(values)
        assert torch.equal(output[~alone], rounded[~alone])

    def test_gradients_by_hand(self) -> None:
        values = torch.tensor([-1.0, 0.3, 3.1, 9.0], requires_grad=True)
        quantizer = DroppingQuantizer(UNSIGNED, 0.0, generator())
        quantizer(values).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        assert values.grad is not None
        assert values.grad.tolist() == [0.0, 2.0, 3.0, 0.0]
        # Slopes over the step: 0 at code 0; (0.5 - 0.3) / 0.5; (3.0 - 3.1) / 0.5; 15. The ratio is the step times two.
        slope = 2 * 0.2 / 0.5 - 3 * 0.1 / 0.5 + 4 * 15
        assert quantizer.step_ratio.grad.item() == pytest.approx(slope * 0.5, rel=1e-4)  # type: ignore[union-attr]

    def test_what_is_dropped_passes_its_gradient_and_moves_no_step(self) -> None:
        values = torch.tensor([-1.0, 0.3, 9.0], requires_grad=True)
        quantizer = DroppingQuantizer(UNSIGNED, 1.0, generator())
        assert torch.equal(quantizer(values), values)
        quantizer(values).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [1.0, 1.0, 1.0]
        assert quantizer.step_ratio.grad.item() == pytest.approx(0.0, abs=1e-5)  # type: ignore[union-attr]


class TestRandomMask:
    @pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 0.9, 1.0])
    def test_is_one_as_often_as_asked(self, probability: float) -> None:
        mask = random_mask(torch.empty(99, 1001), probability, generator())
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert mask.mean().item() == pytest.approx(probability, abs=0.01)

    def test_follows_shape_and_layout(self) -> None:
        like = torch.empty(2, 3, 5, 7).to(memory_format=torch.channels_last)
        mask = random_mask(like, 0.5, generator())
        assert mask.shape == like.shape
        assert mask.stride() == like.stride()

    def test_is_the_same_for_the_same_seed_and_leaves_the_global_state(self) -> None:
        like, state = torch.empty(1000), torch.get_rng_state()
        assert torch.equal(random_mask(like, 0.5, generator(3)), random_mask(like, 0.5, generator(3)))
        assert not torch.equal(random_mask(like, 0.5, generator(3)), random_mask(like, 0.5, generator(4)))
        assert torch.equal(torch.get_rng_state(), state)
