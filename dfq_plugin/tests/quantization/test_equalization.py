"""Equalization: the pairs it finds, the ranges it makes equal, and the function that stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.quantization.analytic_ranges import Moments
from dfq_plugin.quantization.equalization import Pair, absorb_high_biases, equalize, find_pairs
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.tests.quantization.networks import filled, traced

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2


class Chain(nn.Module):
    """Convolution, depthwise convolution, grouped convolution, linear layer of a flattened map; ReLUs and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped, self.fc = nn.Conv2d(8, 6, 1, groups=2), nn.Linear(6 * 9, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.relu(self.depthwise(F.relu(self.first(pixels))))
        high = F.max_pool2d(F.relu(self.grouped(low)), 2)
        logits: Tensor = self.fc(torch.flatten(high, 1))
        return logits


def ready(network: nn.Module) -> tuple[Body, OperatorGraph]:
    body, graph = traced(filled(network))
    return body.requires_grad_(requires_grad=False), graph


def names(graph: OperatorGraph) -> list[tuple[str, str]]:
    return [(pair.first.split("/")[1], pair.second.split("/")[1]) for pair in find_pairs(graph)]


class TestPairs:
    def test_are_found_through_relu_pooling_and_flatten(self) -> None:
        _, graph = ready(Chain())
        assert names(graph) == [("first", "depthwise"), ("depthwise", "grouped"), ("grouped", "fc")]
        assert find_pairs(graph)[2].between == ("relu", "max_pool2d", "flatten")

    def test_are_found_without_anything_in_between(self) -> None:
        _, graph = ready(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)))
        (pair,) = find_pairs(graph)
        assert pair == Pair("network/0/conv2d/0", "network/1/conv2d/0", ())

    @pytest.mark.parametrize(
        "between",
        [
            pytest.param(nn.ReLU6(), id="relu6"),
            pytest.param(nn.Sigmoid(), id="sigmoid"),
            pytest.param(nn.ConstantPad2d(1, 1.0), id="padded_with_ones"),
            pytest.param(nn.Softmax(dim=1), id="softmax"),
        ],
    )
    def test_are_not_found_through_what_is_no_multiple_of_its_input(self, between: nn.Module) -> None:
        _, graph = ready(nn.Sequential(nn.Conv2d(3, 4, 1), between, nn.Conv2d(4, 2, 1)))
        assert find_pairs(graph) == []

    def test_are_not_found_where_something_else_reads_what_is_in_between(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                low = F.relu(self.first(pixels))
                logits: Tensor = (self.second(low) + low).mean((2, 3))
                return logits

        assert find_pairs(ready(Residual())[1]) == []

    def test_are_not_found_where_a_layer_runs_twice(self) -> None:
        shared = nn.Conv2d(3, 3, 1)
        assert find_pairs(ready(nn.Sequential(shared, nn.ReLU(), shared))[1]) == []


class TestEqualize:
    def test_leaves_the_function_as_it_was(self) -> None:
        body, graph = ready(Chain())
        with torch.no_grad():
            before = body(IMAGES)
            weight = body.get_parameter("network.grouped.weight").clone()
            equalize(body, graph, find_pairs(graph))
            assert torch.allclose(body(IMAGES), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
        assert not torch.allclose(body.get_parameter("network.grouped.weight"), weight)

    def test_makes_the_ranges_of_each_channel_equal_in_both_layers(self) -> None:
        body, graph = ready(Chain())
        equalize(body, graph, find_pairs(graph))
        weights = {
            name.split(".")[1]: body.get_parameter(name) for name, _ in body.named_parameters() if "weight" in name
        }
        out = {name: weight.flatten(1).abs().amax(dim=1) for name, weight in weights.items()}
        assert torch.allclose(out["first"], weights["depthwise"].flatten(1).abs().amax(dim=1), rtol=1e-3)
        grouped = torch.cat([half.flatten(1).abs().amax(dim=0) for half in weights["grouped"].flatten(1).chunk(2)])
        assert torch.allclose(out["depthwise"], grouped, rtol=1e-3)
        assert torch.allclose(out["grouped"], weights["fc"].reshape(5, 6, 9).abs().amax(dim=(0, 2)), rtol=1e-3)

    def test_says_by_what_each_channel_was_divided(self) -> None:
        body, graph = ready(Chain())
        before = body.get_parameter("network.first.weight").clone()
        divided = equalize(body, graph, find_pairs(graph))
        again = body.get_parameter("network.first.weight") * divided["network/first/conv2d/0"].reshape(-1, 1, 1, 1)
        assert torch.allclose(again, before, rtol=1e-4)

    def test_hand_computed_channel(self) -> None:
        body, graph = ready(nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)))
        with torch.no_grad():
            body.get_parameter("network.0.weight").copy_(torch.tensor([8.0, -2.0, 1.0]).reshape(1, 3, 1, 1))
            body.get_parameter("network.0.bias").fill_(4.0)
            body.get_parameter("network.2.weight").fill_(-0.5)
        divided = equalize(body, graph, find_pairs(graph))
        assert divided["network/0/conv2d/0"].tolist() == pytest.approx([4.0])  # sqrt(8 * 0.5) / 0.5
        assert body.get_parameter("network.0.weight").flatten().tolist() == pytest.approx([2.0, -0.5, 0.25])
        assert body.get_parameter("network.0.bias").item() == pytest.approx(1.0)
        assert body.get_parameter("network.2.weight").item() == pytest.approx(-2.0)

    def test_leaves_dead_channels_alone(self) -> None:
        body, graph = ready(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1)))
        with torch.no_grad():
            body.get_parameter("network.0.weight")[1].zero_()
            body.get_parameter("network.2.weight")[:, 2].zero_()
            before = body(IMAGES)
            divided = equalize(body, graph, find_pairs(graph))["network/0/conv2d/0"]
            assert divided[1:].tolist() == [1.0, 1.0]
            assert torch.allclose(body(IMAGES), before, rtol=1e-4, atol=1e-4)


class TestAbsorption:
    NETWORKS: ClassVar[dict[str, Callable[[], nn.Module]]] = {
        "conv": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        "grouped": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1, groups=2)),
        "linear": lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)),
    }

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_changes_nothing_where_inputs_stay_above_what_is_absorbed(self, kind: str) -> None:
        body, graph = ready(self.NETWORKS[kind]())
        with torch.no_grad():
            body.get_parameter("network.0.bias").fill_(1000.0)
            before, bias = body(IMAGES), body.get_parameter("network.0.bias").clone()
            moments = {
                "network/0/conv2d/0": Moments(torch.full((4,), 1000.0), torch.tensor([1.0, 2.0, 3.0, 4.0]) * 100)
            }
            absorbed = absorb_high_biases(body, graph, find_pairs(graph), moments)
            assert absorbed["network/0/conv2d/0"].tolist() == [700.0, 400.0, 100.0, 0.0]
            assert torch.equal(body.get_parameter("network.0.bias"), bias - absorbed["network/0/conv2d/0"])
            assert torch.allclose(body(IMAGES), before, rtol=1e-4, atol=0.1)

    @pytest.mark.parametrize(
        "network",
        [
            pytest.param(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)), id="padding"),
            pytest.param(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), id="no_relu"),
            pytest.param(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False)), id="no_bias"),
            pytest.param(
                nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Conv2d(4, 2, 1)),
                id="padded_average",
            ),
        ],
    )
    def test_leaves_alone_what_it_would_change(self, network: nn.Module) -> None:
        body, graph = ready(network)
        before = {name: value.clone() for name, value in body.state_dict().items()}
        moments = {"network/0/conv2d/0": Moments(torch.full((4,), 9.0), torch.ones(4))}
        assert absorb_high_biases(body, graph, find_pairs(graph), moments) == {}
        assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())

    def test_needs_to_know_the_moments(self) -> None:
        body, graph = ready(self.NETWORKS["conv"]())
        assert absorb_high_biases(body, graph, find_pairs(graph), {}) == {}
