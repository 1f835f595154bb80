"""What is read out of NNCF's graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.tests.quantization.networks import EXAMPLE, Branches, traced


@pytest.fixture(scope="module")
def graph() -> OperatorGraph:
    return traced(Branches())[1]


def test_operators_come_in_order_of_execution_under_the_names_of_the_users_network(graph: OperatorGraph) -> None:
    names = [graph.own_name(node.node_name) for node in graph.computing_operators()]
    assert names == [
        "images",
        "left/conv2d/0",
        "/relu/0",
        "right/conv2d/0",
        "/relu/1",
        "/cat/0",
        "/max_pool2d/0",
        "last/conv2d/0",
        "/relu/2",
        "/mean/0",
        "fc/linear/0",
    ]


def test_operators_are_filtered_by_type(graph: OperatorGraph) -> None:
    assert [node.node_type for node in graph.operators("linear", "cat")] == ["cat", "linear"]


def test_parameters_and_sources_are_told_apart_by_port(graph: OperatorGraph) -> None:
    node = graph.node("network/last/conv2d/0")
    assert graph.parameters(node) == {1: "network.last.weight", 2: "network.last.bias"}
    assert {port: source.node_name for port, source in graph.sources(node).items()} == {0: "network/max_pool2d/0"}


def test_readers_are_direct_unless_looked_for_through_rearranging_operators(graph: OperatorGraph) -> None:
    relu = graph.node("network/relu/1")
    assert [operand.operator for operand in graph.readers(relu)] == ["network/cat/0"]
    assert [operand.port for operand in graph.readers(relu)] == [1]
    assert [operand.operator for operand in graph.readers_through(relu)] == ["network/last/conv2d/0"]
    image = graph.node("images")
    assert {operand.operator for operand in graph.readers_through(image)} == {
        "network/left/conv2d/0",
        "network/right/conv2d/0",
    }


def test_output_shape_is_that_of_the_traced_batch(graph: OperatorGraph) -> None:
    assert tuple(graph.output_shape(graph.node("network/last/conv2d/0"))) == (1, 4, 2, 2)


def test_module_types_are_those_of_the_users_network(graph: OperatorGraph) -> None:
    types = graph.module_types
    assert types[""] == "Branches"
    assert types["fc"] == "Linear"


def test_a_network_that_loops_over_its_own_layers_can_be_traced() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, pixels: Tensor) -> Tensor:
            for layer in self.children():
                pixels = layer(pixels)
            return pixels

    graph = traced(Loop())[1]
    names = [graph.own_name(node.node_name) for node in graph.computing_operators()]
    assert names == ["images", "first/conv2d/0", "second/relu/0"]


@pytest.mark.parametrize(("output", "kind"), [({}, "dict"), ((torch.zeros(1),), "tuple")])
def test_a_network_without_one_output_tensor_is_refused(output: object, kind: str) -> None:
    class Several(nn.Module):
        def forward(self, _: Tensor) -> object:
            return output

    with pytest.raises(UnsupportedModelError, match=f"Several returns a {kind}"):
        OperatorGraph.trace(Body(Several()), EXAMPLE)
