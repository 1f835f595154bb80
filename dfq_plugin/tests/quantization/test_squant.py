"""SQuant: its laws, its equality with a plain loop, and its effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.quantization.squant import choose, movable, round_weights, squant_codes
from dfq_plugin.student import ProductLayer, QuantizerSite, Student
from dfq_plugin.tests.quantization.networks import filled, put, symmetric, traced

SHAPES = [
    pytest.param((6, 8, 9), id="conv3x3"),
    pytest.param((16, 1, 9), id="depthwise"),
    pytest.param((4, 3, 25), id="conv5x5"),
    pytest.param((5, 40, 1), id="linear"),
]


def random_weights(shape: tuple[int, int, int], top: int, seed: int = 0) -> Tensor:
    """Weights whose largest magnitude per output channel is ``top`` steps."""
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weights / weights.abs().amax(dim=(1, 2), keepdim=True) * top


def half_even(value: float) -> int:
    return round(value)  # Python rounds halves to even, as the method does


def flip_row(errors: list[float], moves: list[int], count: int, wanted: int) -> list[int]:
    """Indices of the ``count`` best elements that can move in the wanted direction."""
    able = [index for index in range(len(errors)) if moves[index] == wanted]
    return sorted(able, key=lambda index: (-abs(errors[index]), index))[:count]


def direction(error: float, code: int, low: int, high: int) -> int:
    step = -int(math.copysign(1, error)) if error else 0
    return step if step and low <= code + step <= high else 0


def loop_codes(channel: Tensor, low: int, high: int) -> list[list[int]]:
    """The method for one output channel, (in, kernel), one element at a time."""
    x = channel.tolist()
    q = [[min(max(half_even(v), low), high) for v in kernel] for kernel in x]
    e = [[q[n][i] - x[n][i] for i in range(len(x[n]))] for n in range(len(x))]
    can = [[direction(e[n][i], q[n][i], low, high) for i in range(len(x[n]))] for n in range(len(x))]
    if len(x[0]) > 1:
        for n in range(len(x)):
            total = sum(e[n])
            wanted = -int(math.copysign(1, total)) if total else 0
            count = half_even(abs(total))
            ranked = flip_row(e[n], can[n], len(x[n]), wanted)
            for index in ranked[:count]:
                q[n][index] += wanted
                e[n][index] += wanted
            left = [0] * len(x[n])
            if count > 0 and count >= abs(total) and len(ranked) >= count:
                left[ranked[count - 1]] = -wanted
            elif not (count > 0 and count >= abs(total)) and len(ranked) > count:
                left[ranked[count]] = wanted
            can[n] = left
    flat_e = [value for kernel in e for value in kernel]
    flat_can = [value for kernel in can for value in kernel]
    total = sum(flat_e)
    wanted = -int(math.copysign(1, total)) if total else 0
    for index in flip_row(flat_e, flat_can, half_even(abs(total)), wanted):
        q[index // len(x[0])][index % len(x[0])] += wanted
    return q


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
class TestSquantCodes:
    def test_equals_the_plain_loop(self, shape: tuple[int, int, int], bits: int) -> None:
        top = 2 ** (bits - 1) - 1
        weights = random_weights(shape, top, seed=bits)
        expected = torch.tensor([loop_codes(channel, -top, top) for channel in weights], dtype=torch.float64)
        assert torch.equal(squant_codes(weights, -top, top), expected)

    def test_keeps_its_laws(self, shape: tuple[int, int, int], bits: int) -> None:
        top = 2 ** (bits - 1) - 1
        weights = random_weights(shape, top, seed=bits) * 0.9  # no code at the end of the range is in the way
        codes = squant_codes(weights, -top, top)
        errors = codes - weights
        assert codes.abs().max() <= top
        assert torch.equal(codes, codes.round())
        assert errors.abs().max() < 1.0
        if bits > 2:
            assert errors.sum(dim=2).abs().max() <= 1.0
            assert errors.sum(dim=(1, 2)).abs().max() <= 0.5


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_kernel_stage_brings_every_kernel_to_one_half(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    scaled = (random_weights((8, 16, 9), top, seed=bits) * 0.9).flatten(0, 1)
    codes = scaled.round()
    errors = codes - scaled
    assert errors.sum(dim=1).abs().max() > 1.0
    balanced = errors + choose(errors, movable(codes, errors, -top, top), errors.sum(dim=1, keepdim=True)).moves()
    assert balanced.sum(dim=1).abs().max() <= 0.5
    assert balanced.abs().max() < 1.0


def test_kernel_stage_leaves_the_last_or_the_next_element_to_the_channel_stage() -> None:
    # First row: the sum of -1.1 moves the first element (count 1 < 1.1): next in line is the third. Second row: the sum
    # of 0.9 moves the second element down, by more than was needed: it may be moved back. Third: nothing to do.
    errors = torch.tensor([[-0.4, -0.3, -0.4], [0.3, 0.4, 0.2], [0.0, 0.0, 0.0]])
    choice = choose(errors, -errors.sign(), errors.sum(dim=1, keepdim=True))
    assert choice.moves().tolist() == [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    element, step = choice.next_move()
    assert element.flatten().tolist()[:2] == [2, 1]
    assert step.flatten().tolist() == [1.0, 1.0, 0.0]


def test_hand_computed_kernel() -> None:
    # Nearest rounding gives 0, 0, 0 with errors -.4, -.3, -.4: the sum of -1.1 asks for one element to go up, the
    # first of the two at -.4. The kernel then sums to -.1, and the channel of this single kernel is settled with it.
    weights = torch.tensor([[[0.4, 0.3, 0.4]]])
    assert squant_codes(weights, -7, 7).tolist() == [[[1.0, 0.0, 0.0]]]


def test_codes_at_the_end_of_the_range_stay() -> None:
    weights = torch.tensor([[[7.4, 7.4, 7.4]]])  # all want to go up, none can
    assert squant_codes(weights, -7, 7).tolist() == [[[7.0, 7.0, 7.0]]]


def test_weights_on_the_grid_are_left_alone() -> None:
    weights = torch.tensor([[[3.0, -2.0, 0.0]], [[0.0, 0.0, 0.0]]])
    assert torch.equal(squant_codes(weights, -7, 7), weights)


def test_mean_of_the_output_moves_less_than_with_nearest_rounding() -> None:
    weights = random_weights((32, 16, 9), 7)
    inputs = torch.rand(64, 16 * 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = inputs @ weights.flatten(1).T
    error = (inputs @ squant_codes(weights, -7, 7).flatten(1).T - exact).square().mean()
    nearest = (inputs @ weights.round().flatten(1).T - exact).square().mean()
    assert error < 0.5 * nearest


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv, self.head = nn.ConvTranspose2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.head(self.conv(self.up(pixels)))
        return output


def test_round_weights_puts_every_quantized_weight_on_its_grid() -> None:
    body, _ = traced(filled(Up()))
    scale = torch.linspace(2.0, 3.0, 5)
    put(body, "pre", "network/up/conv_transpose2d/0", 1, symmetric(scale[:4].reshape(1, 4, 1, 1), bits=4, narrow=True))
    put(body, "pre", "network/conv/conv2d/0", 1, symmetric(scale.reshape(5, 1, 1, 1), bits=4, narrow=True))
    names = {"up": "pre_hooks.network/up/conv_transpose2d/0__1.0", "conv": "pre_hooks.network/conv/conv2d/0__1.0"}
    sites = tuple(QuantizerSite(name, "weight", key, (key,), multiplied=True) for key, name in names.items())
    layers = tuple(ProductLayer(key, f"network.{key}.weight", None, name, None) for key, name in names.items())
    in_float = ProductLayer("head", "network.head.weight", None, None, None)
    student = Student(body.requires_grad_(requires_grad=False), (3, 8, 8), sites, (*layers, in_float), ())
    before = {name: value.clone() for name, value in student.network.state_dict().items()}
    round_weights(student)
    for site, axis in zip(sites, (1, 0), strict=True):
        weight = student.network.get_parameter(f"network.{site.layer}.weight")
        old = before[f"network.{site.layer}.weight"]
        step = student.grid(site).step.reshape([-1 if dimension == axis else 1 for dimension in range(4)])
        assert torch.allclose(weight / step, (weight / step).round(), atol=1e-4)
        assert ((weight - old).abs() < step)[old.abs() < 6.5 * step].all()
        assert not torch.equal(weight, old)
    assert torch.equal(student.network.get_parameter("network.head.weight"), before["network.head.weight"])
