"""Second moments of what layers read, and weights rounded by them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.quantization import second_order
from dfq_plugin.quantization.gptq import SecondMoments
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.second_order import round_by_moments
from dfq_plugin.quantization.switching import in_float
from dfq_plugin.student import ProductLayer, QuantizerSite, Student
from dfq_plugin.tests.quantization.networks import filled, put, symmetric, traced


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
def case() -> tuple[Student, OperatorGraph]:
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
    case: tuple[Student, OperatorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, graph = case
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def keep(watched: second_order._Watched) -> bool:
        name = next(name for name, own in student.network.named_parameters() if own is watched._weight)
        moments = watched.moments()
        if moments is not None:
            seen[name.split(".")[1]] = moments.found, watched._weight.clone()
        return moments is not None

    monkeypatch.setattr(second_order._Watched, "round", keep)
    for key in NAMES:
        module = student.network.get_submodule(f"network.{key}")
        module.register_forward_pre_hook(lambda _, inputs, key=key: outputs.setdefault(key, []).append(inputs[0]))
    round_by_moments(student, graph, images, batch_size=2)
    student.network(images)  # its inputs come last
    assert seen.keys() == NAMES.keys() - {"up"}
    for key, (moments, weight) in seen.items():
        module = student.network.get_submodule(f"network.{key}")
        rows = weight.reshape(len(moments), -1, moments.shape[1])
        expected = torch.einsum("goi,gij,goj->", rows, moments, rows)
        inputs = outputs[key][-1]
        found = _without_quantizer(module, inputs)
        torch.testing.assert_close(found.square().sum(), expected, rtol=1e-4, atol=1e-4, msg=key)


def _without_quantizer(module: nn.Module, inputs: Tensor) -> Tensor:
    """The product of a layer's own weight, computed outside the hooked network."""
    if isinstance(module, nn.Conv2d):
        found: Tensor = module._conv_forward(inputs, module.weight, None)
        return found
    assert isinstance(module, nn.Linear)
    return nn.functional.linear(inputs, module.weight)


def test_weights_end_up_on_their_grids_and_the_others_as_they_were(
    case: tuple[Student, OperatorGraph],
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


def test_inputs_in_float_are_those_of_the_network_before_anything_was_rounded(
    case: tuple[Student, OperatorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, graph = case
    before = {name: value.clone() for name, value in student.network.named_parameters()}
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    kept: dict[str, SecondMoments] = {}
    rounding = second_order._Watched.round

    def keep(watched: second_order._Watched) -> bool:
        name = next(name for name, own in student.network.named_parameters() if own is watched._weight)
        moments = watched.moments()
        if moments is not None:
            kept[name.split(".")[1]] = moments
        return rounding(watched)

    monkeypatch.setattr(second_order._Watched, "round", keep)
    round_by_moments(student, graph, images, batch_size=2)
    seen: list[Tensor] = []
    student.network.get_submodule("network.head").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    student.network(images)
    with in_float(student), torch.no_grad():
        for name, value in student.network.named_parameters():
            value.copy_(before[name])
        student.network(images)
    after, exact = seen
    assert not torch.allclose(after, exact, rtol=1e-2)
    torch.testing.assert_close(kept["head"].cross, (exact.T @ after).unsqueeze(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kept["head"].exact, (exact.T @ exact).unsqueeze(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "batch_size", "of_halves"), [(6, 2, [4, 2]), (8, 2, [4, 4]), (5, 9, [3, 2]), (1, 2, [1])]
)
def test_halves_of_the_images_have_moments_of_their_own(
    count: int,
    batch_size: int,
    of_halves: list[int],
    case: tuple[Student, OperatorGraph],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, graph = case
    seen: list[Tensor] = []

    def keep(watched: second_order._Watched) -> bool:
        if watched._weight.ndim == 2:  # has one place of each image
            seen.append(torch.stack([half.exact.sum() for half in watched._halves.values()]))
        return True

    monkeypatch.setattr(second_order._Watched, "round", keep)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    round_by_moments(student, graph, image.repeat(count, 1, 1, 1), batch_size)  # so that each adds the same
    shares = torch.tensor(of_halves) / count
    torch.testing.assert_close(seen, [shares * seen[0].sum()])


def test_layers_of_a_block_take_turns_in_order() -> None:
    assert [list(part) for part in second_order._turns("abc")] == [["a"], ["b"], ["c"]]
    assert [list(part) for part in second_order._turns("abcdefghi")] == [list("abc"), list("def"), list("ghi")]
    assert second_order._turns("") == []


def test_layers_with_very_many_inputs_are_left_as_they_are(
    case: tuple[Student, OperatorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, graph = case
    before = {name: value.clone() for name, value in student.network.named_parameters()}
    monkeypatch.setattr(second_order, "MOST_INPUTS", 26)  # of strided 27, of the others fewer
    round_by_moments(student, graph, torch.randn(4, 3, 8, 8), batch_size=4)
    changed = {name for name, value in student.network.named_parameters() if not torch.equal(value, before[name])}
    assert "network.strided.weight" not in changed
    assert {"network.grouped.weight", "network.head.weight"} <= changed
