"""Linear layers and matrix products of any rank, with and without bias and output quantizer, on integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export

INTEGER = {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}
INPUTS: dict[str, tuple[tuple[int, int, int], Callable[[Tensor], Tensor]]] = {
    "vectors": ((1, 4, 4), lambda v: v.flatten(1)),
    "sequences": ((3, 4, 4), lambda v: v.flatten(2)),
    "sequences first": ((4, 4, 4), lambda v: v.flatten(2).transpose(0, 1)),
    "channels last": ((16, 4, 4), lambda v: v.permute(0, 2, 3, 1)),
}


@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "float"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", INPUTS)
def test_linear_layer_runs_on_an_integer_kernel(name: str, bias: bool, quantized: bool, tmp_path: Path) -> None:
    shape, prepare = INPUTS[name]
    modules = {"images": activation(1 / 16, 128), "fc": Layer(nn.Linear(16, 7, bias=bias))}

    def forward(net: nn.Module, values: Tensor) -> Tensor:
        result: Tensor = net.fc(prepare(net.images(values)))
        return net.result(result) if quantized else result

    if quantized:
        modules["result"] = activation(1 / 4, 128)
    found = check(Network(forward, **modules), shape, tmp_path / "model.onnx")
    assert sum(found[kernel] for kernel in INTEGER) == 1
    assert found["Add"] == 0


def test_linear_weight_is_stored_as_it_is_read(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.fc(net.images(values)), images=activation(1 / 16, 128), fc=Layer(nn.Linear(4, 7))
    )
    graph = Graph(export(network, (3, 5, 4), tmp_path / "model.onnx"))
    (product,) = graph.of_type("Gemm")
    weight = graph.dequantizer(product, 1)
    assert graph.array(weight.input[0]).shape == (4, 7)
    assert [entry.i for entry in weight.attribute if entry.name == "axis"] == [1]
    assert not graph.of_type("Transpose", "MatMul", "Add")


def test_weights_between_two_codes_take_the_nearest(tmp_path: Path) -> None:
    layer = Layer(nn.Linear(4, 1, bias=False), bits=4)
    layer.rounding.grid.step.fill_(0.5)
    layer.layer.weight.data.copy_(torch.tensor([[0.7, -0.7, 1.25, 9.0]]))  # 1.4, -1.4, 2.5 to even, 18 to the largest
    network = Network(lambda net, values: net.fc(net.images(values)), images=activation(1 / 16, 128), fc=layer)
    graph = Graph(export(network, (3, 5, 4), tmp_path / "model.onnx"))
    (product,) = graph.of_type("MatMul")
    assert graph.array(graph.dequantizer(product, 1).input[0]).ravel().tolist() == [1, -1, 2, 7]


def test_linear_layers_in_a_row_keep_their_names(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.second(net.middle(net.first(net.images(values)))),
        images=activation(1 / 16, 128),
        first=Layer(nn.Linear(4, 6)),
        middle=activation(1 / 4, 128),
        second=Layer(nn.Linear(6, 3, bias=False), input_step=1 / 4),
    )
    path = tmp_path / "model.onnx"
    check(network, (3, 5, 4), path)
    assert [node.name for node in Graph(path).of_type("Gemm", "MatMul")] == ["first/weight", "second/weight"]


@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "float"])
def test_product_of_two_activations_runs_on_an_integer_kernel(quantized: bool, tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        queries, keys = net.queries(values.flatten(2)), net.keys(values.flatten(2) * 0.5)
        scores = queries @ keys.transpose(1, 2)
        return net.scores(scores) if quantized else scores

    modules: dict[str, nn.Module] = {"queries": activation(1 / 16, 128), "keys": activation(1 / 32, 128)}
    if quantized:
        modules["scores"] = activation(1 / 2, 128)
    found = check(Network(forward, **modules), (3, 4, 4), tmp_path / "model.onnx")
    assert found["QLinearMatMul" if quantized else "MatMulIntegerToFloat"] == 1
