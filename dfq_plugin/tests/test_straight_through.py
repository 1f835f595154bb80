"""Rounding to a grid: its values, and its gradients by hand and against NNCF's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfq_plugin.straight_through import inner_product, round_to_grid

CODES = (-2, 3)


def gradients(values: list[float], step: float, kept: list[float] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient for the values and for the step where that of the output is 1, 10, 100, ..."""
    tensor, size = torch.tensor(values, requires_grad=True), torch.tensor(step, requires_grad=True)
    output = round_to_grid(tensor, size, CODES, None if kept is None else torch.tensor(kept))
    output.backward(10.0 ** torch.arange(len(values)))
    assert tensor.grad is not None
    assert size.grad is not None
    return output.detach(), tensor.grad, size.grad


def test_values_within_pass_their_gradient_on_and_move_the_step_by_their_error() -> None:
    output, passed, slope = gradients([0.6, -0.2], step=0.5)
    assert output.tolist() == [0.5, 0.0]
    assert passed.tolist() == [1.0, 10.0]
    assert slope.item() == pytest.approx((0.5 - 0.6) / 0.5 + 10 * (0.0 + 0.2) / 0.5)


def test_values_beyond_pass_nothing_and_move_the_step_by_their_code() -> None:
    output, passed, slope = gradients([-4.0, 4.0], step=0.5)
    assert output.tolist() == [-1.0, 1.5]
    assert passed.tolist() == [0.0, 0.0]
    assert slope.item() == pytest.approx(-2 + 10 * 3)


def test_values_on_the_outermost_codes_are_within() -> None:
    step = 0.1  # 3 * 0.1 is not 0.3 in float32's arithmetic
    _, passed, slope = gradients([3 * step, -2 * step], step)
    assert passed.tolist() == [1.0, 10.0]
    assert slope.item() == pytest.approx(0.0, abs=1e-4)


def test_what_is_not_kept_stays_in_float_and_moves_no_step() -> None:
    output, passed, slope = gradients([0.6, 4.0], step=0.5, kept=[0.0, 0.0])
    assert output.tolist() == pytest.approx([0.6, 4.0])
    assert passed.tolist() == [1.0, 10.0]
    assert slope.item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("by_channel", [False, True])
def test_steps_get_the_sum_over_what_they_round(layout: torch.memory_format, by_channel: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 5, 5, generator=generator).contiguous(memory_format=layout).requires_grad_()
    incoming = torch.randn(4, 3, 5, 5, generator=generator).contiguous(memory_format=layout)
    step = torch.rand((1, 3, 1, 1) if by_channel else (1,), generator=generator).add(0.2).requires_grad_()
    round_to_grid(values, step, CODES).backward(incoming)
    exact = (values / step).detach()
    inside = (exact >= CODES[0]) & (exact <= CODES[1])
    slopes = torch.where(inside, exact.round() - exact, exact.round().clamp(*CODES)) * incoming
    assert values.grad is not None
    assert step.grad is not None
    assert torch.equal(values.grad, incoming * inside)
    assert torch.allclose(step.grad, slopes.sum_to_size(step.shape), atol=1e-4)


def test_inner_product_takes_any_layout() -> None:
    first, second = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = (first * second).sum()
    for layout in (torch.contiguous_format, torch.channels_last):
        parts = [part.contiguous(memory_format=layout) for part in (first, second)]
        assert torch.allclose(inner_product(*parts), expected, atol=1e-5)
    mixed = inner_product(first, second.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(mixed, expected, atol=1e-5)
