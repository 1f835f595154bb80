"""GPTQ: by hand, against a plain loop, and the moments it works on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.quantization import second_order
from dfq_plugin.quantization.second_order import DAMPING, gptq_codes, round_by_moments
from dfq_plugin.student import ProductLayer, QuantizerSite, Student
from dfq_plugin.tests.quantization.networks import filled, put, symmetric, traced


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


def test_second_weight_makes_up_for_the_first() -> None:
    # 0.4 goes to 0; the other, pulled by half of that error, goes from 0.4 to 0.6 and so to 1, where nearest gives 0.
    weights, moments = torch.tensor([[[0.4, 0.4]]]), torch.tensor([[[4.0, 2.0], [2.0, 4.0]]])
    assert gptq_codes(weights, moments, *limits(weights, -4, 3)).tolist() == [[[0.0, 1.0]]]


def test_input_of_the_larger_moment_comes_first() -> None:
    weights, moments = torch.tensor([[[0.4, 0.4]]]), torch.tensor([[[4.0, 2.0], [2.0, 5.0]]])
    assert gptq_codes(weights, moments, *limits(weights, -4, 3)).tolist() == [[[1.0, 0.0]]]


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
    monkeypatch.setattr(second_order, "TOGETHER", together)
    weights, moments = random_case(2, 4, 10)
    found = gptq_codes(weights, moments, *limits(weights, -4, 3))
    for group in range(2):
        assert torch.equal(found[group], plain_loop(weights[group], moments[group], -4, 3))


@pytest.mark.parametrize("seed", range(3))
def test_error_on_the_inputs_is_much_smaller_than_that_of_rounding_to_nearest(seed: int) -> None:
    weights, moments = random_case(3, 8, 20, seed)

    def error(codes: Tensor) -> Tensor:
        gap = codes - weights
        return torch.einsum("goi,gij,goj->", gap, moments, gap)

    found = gptq_codes(weights, moments, *limits(weights, -8, 7))
    assert found.min() >= -8
    assert found.max() <= 7
    assert error(found) < 0.5 * error(weights.round().clamp(-8, 7))


def test_inputs_that_are_always_zero_round_to_nearest() -> None:
    weights = torch.tensor([[[0.4, 1.6, -2.2]]])
    assert gptq_codes(weights, torch.zeros(1, 3, 3), *limits(weights, -4, 3)).tolist() == [[[0.0, 2.0, -2.0]]]


class Layers(nn.Module):
    """Each kind of layer that has moments, and one that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        low = torch.relu(self.grouped(torch.relu(self.strided(pixels))))
        high = torch.relu(self.up(torch.relu(self.depthwise(low))))
        output: Tensor = self.head(high.mean(dim=(2, 3)))
        return output


NAMES = {"strided": "conv2d", "grouped": "conv2d", "depthwise": "conv2d", "up": "conv_transpose2d", "head": "linear"}


@pytest.fixture
def case() -> tuple[Student, second_order.OperatorGraph]:
    body, graph = traced(filled(Layers()))
    sites, layers = [], []
    for key, kind in NAMES.items():
        weight = body.get_parameter(f"network.{key}.weight")
        shape = [1] * weight.ndim
        shape[1 if key == "up" else 0] = -1
        reach = weight.abs().amax() * torch.ones(weight.shape[1 if key == "up" else 0])
        put(body, "pre", f"network/{key}/{kind}/0", 1, symmetric(reach.reshape(shape), bits=3))
        name = f"pre_hooks.network/{key}/{kind}/0__1.0"
        sites.append(QuantizerSite(name, "weight", f"{key}/{kind}/0", (f"{key}/{kind}/0",), multiplied=True))
        layers.append(ProductLayer(f"{key}/{kind}/0", f"network.{key}.weight", None, name, None))
    return Student(body.requires_grad_(requires_grad=False), (3, 8, 8), tuple(sites), tuple(layers), ()), graph


def test_moments_of_a_layer_are_what_its_output_changes_by(
    case: tuple[Student, second_order.OperatorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, graph = case
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def keep(watched: second_order._Watched) -> None:
        name = next(name for name, own in student.network.named_parameters() if own is watched._weight)
        if watched._sum is not None:
            seen[name.split(".")[1]] = watched._sum, watched._weight.clone()

    monkeypatch.setattr(second_order._Watched, "round", keep)
    for key in NAMES:
        module = student.network.get_submodule(f"network.{key}")
        module.register_forward_pre_hook(lambda _, inputs, key=key: outputs.setdefault(key, []).append(inputs[0]))
    round_by_moments(student, graph, images, batch_size=2)
    student.network(images)  # its inputs come last
    assert seen.keys() == NAMES.keys() - {"up"}
    for key, (moments, weight) in seen.items():
        module = student.network.get_submodule(f"network.{key}")
        module.bias = None
        rows = weight.reshape(len(moments), -1, moments.shape[1])
        expected = torch.einsum("goi,gij,goj->", rows, moments, rows)
        inputs = outputs[key][-1]
        found = _without_quantizer(module, inputs)
        torch.testing.assert_close(found.square().sum(), expected, rtol=1e-4, atol=1e-4, msg=key)


def _without_quantizer(module: nn.Module, inputs: Tensor) -> Tensor:
    """The product of a layer's own weight, computed outside the hooked network."""
    if isinstance(module, nn.Conv2d):
        said = module.stride, module.padding, module.dilation, module.groups
        return nn.functional.conv2d(inputs, module.weight, None, *said)
    assert isinstance(module, nn.Linear)
    return nn.functional.linear(inputs, module.weight)


def test_weights_end_up_on_their_grids_and_the_others_as_they_were(
    case: tuple[Student, second_order.OperatorGraph],
) -> None:
    student, graph = case
    before = {name: value.clone() for name, value in student.network.named_parameters()}
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    round_by_moments(student, graph, images, batch_size=4)
    for layer in student.layers:
        weight = student.network.get_parameter(layer.weight)
        if layer.operator.startswith("up/"):
            assert torch.equal(weight, before[layer.weight])
            continue
        grid = student.grid(student.site(layer.weight_quantizer or ""))
        codes = weight / grid.step.reshape(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
        assert codes.min() > grid.low - 0.1
        assert codes.max() < grid.high + 0.1
        assert not torch.equal(weight, before[layer.weight])
