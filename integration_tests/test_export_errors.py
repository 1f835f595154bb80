"""What cannot be exported is refused in words that name the layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.config import ExportSettings
from dfq_plugin.errors import ExportError
from dfq_plugin.export import export_float, export_onnx
from dfq_plugin.export.lowering import lower
from dfq_plugin.student import Grid
from integration_tests.conftest import Maker
from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, Rounding, activation, check, export, images, run

SHAPE = (3, 8, 8)


class Block(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(self.conv(values))


def deep(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU(), Block(function))).eval()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda v: v * 2 if v.sum() > 0 else v, "depends on the values of a tensor"),
        (torch.special.bessel_j0, "ONNX has no form of prims.bessel_j0"),
        (lambda v: F.adaptive_max_pool2d(v, 3), "ONNX has no form of aten.adaptive_max_pool2d"),
    ],
    ids=["branch", "operator", "pool"],
)
def test_layer_that_cannot_be_traced_is_named(
    function: Callable[[Tensor], Tensor], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"PyTorch cannot trace 1/1 for ONNX: .*{reason}"):
        export_float(deep(function), SHAPE, tmp_path / "model.onnx", ExportSettings())
    assert not list(tmp_path.iterdir())


def test_network_for_one_number_of_images_is_refused(tmp_path: Path) -> None:
    network = deep(lambda values: values + torch.zeros(len(values), 1, 1, 1))
    with pytest.raises(ExportError, match=r"Sequential works for one number of images only.*images\.shape\[0\]"):
        export_float(network, SHAPE, tmp_path / "model.onnx", ExportSettings())


def test_one_step_a_channel_of_an_activation_is_refused(tmp_path: Path) -> None:
    quantizer = activation()
    steps, zeros = torch.full((3,), 1 / 16), torch.zeros(3, dtype=torch.int64)
    quantizer.grid = Grid(steps, zeros, 0, 255, axis=1)
    network = Network(lambda net, values: net.stem(values), stem=quantizer)
    with pytest.raises(ExportError, match="stem/activation: one step per channel has no integer kernel"):
        export(network, SHAPE, tmp_path / "model.onnx")


def test_weight_that_is_computed_is_refused(tmp_path: Path) -> None:
    grid = Grid(torch.tensor(1 / 16), torch.tensor(0), -8, 7, None)
    network = Network(
        lambda net, values: F.conv2d(net.images(values), net.kernel(values.mean((0, 2, 3)).reshape(1, 3, 1, 1))),
        images=activation(1 / 16, 128),
        kernel=Rounding(grid, "weight", "kernel"),
    )
    with pytest.raises(ExportError, match="kernel/weight: its weight is computed at run time"):
        export(network, SHAPE, tmp_path / "model.onnx")


def test_quantizer_inside_a_branch_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "dfq" : 1]>
        graph (float[N, 3] images, bool which) => (float[N, 3] logits) <float step = {1}, int64 zero = {0}> {
            logits = If (which) <
                then_branch = yes () => (float[N, 3] a)
                    { a = dfq.QuantizeDequantize<layer = "inside", kind = "activation">(images, step, zero) },
                else_branch = no () => (float[N, 3] b) { b = Neg(images) }>
        }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(ExportError, match="quantizers at inside stand inside a branch"):
        lower(model, "none")


def test_branch_around_float_operators_is_exported(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        rounded: Tensor = net.images(values)
        return torch.cond(rounded.sum() > 0, lambda v: v * 2.0, lambda v: v + 1.0, (rounded,))

    network, path = Network(forward, images=activation(1 / 16, 128)), tmp_path / "model.onnx"
    export(network, SHAPE, path)
    for sign in (1, -1):
        values = images(*SHAPE) + sign
        assert torch.equal(run(path, values), network(values))


def test_bias_beyond_32_bits_is_refused_by_the_name_of_its_layer(tmp_path: Path) -> None:
    layer = Layer(nn.Conv2d(3, 4, 3))
    assert isinstance(layer.layer.bias, Tensor)
    layer.layer.bias.data.fill_(1e9)
    network = Network(lambda net, values: net.conv(net.images(values)), images=activation(1 / 16, 128), conv=layer)
    with pytest.raises(ExportError, match="conv/weight: a bias does not fit 32 bits"):
        export(network, SHAPE, tmp_path / "model.onnx")


def test_bias_beside_dead_weights_is_kept(make: Maker, tmp_path: Path) -> None:
    student = copy.deepcopy(make("sequential").student)
    layer = student.layers[0]
    assert layer.weight_quantizer is not None
    student.network.get_parameter(layer.weight).data[2].fill_(0)
    student.quantizer(layer.weight_quantizer).scale.data[2] = 1e-12
    graph = Graph(export_onnx(student, tmp_path / "model.onnx").path)
    conv = graph.of_type("Conv")[0]
    weight, bias = graph.dequantizer(conv, 1), graph.dequantizer(conv, 2)
    assert not graph.array(weight.input[0])[2].any()
    values = graph.array(bias.input[0]) * graph.array(bias.input[1])
    assert layer.bias is not None
    assert np.allclose(values, student.network.get_parameter(layer.bias).detach(), rtol=1e-5, atol=1e-6)


def test_nodes_are_named_after_their_layers(make: Maker) -> None:
    made = make("sequential", 8, 8)
    graph = Graph(made.path)
    products = {node.name for node in graph.of_type("Conv", "Gemm")}
    assert products == {layer.operator for layer in made.student.layers}
    (pool,) = graph.of_type("MaxPool")
    assert pool.name == "3/max_pool2d/0"
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)


def test_float_file_has_the_names_of_the_network(tmp_path: Path) -> None:
    network = deep(lambda v: F.gelu(F.gelu(v)))
    graph = Graph(export_float(network, SHAPE, tmp_path / "model.onnx", ExportSettings()).path)
    expected = ["0/conv2d/0", "1/0/relu/0", "1/1/conv/conv2d/0", "1/1/gelu/0", "1/1/gelu/1"]
    assert [node.name for node in graph.nodes] == expected


SINGLE = {
    "Gelu": F.gelu,
    "HardSwish": F.hardswish,
    "HardSigmoid": F.hardsigmoid,
    "LayerNormalization": lambda v: F.layer_norm(v, (8,)),
    "LeakyRelu": lambda v: F.leaky_relu(v, 0.1),
    "Softmax": lambda v: v.softmax(-1),
}


@pytest.mark.parametrize("op_type", SINGLE)
def test_activation_function_is_one_operator(op_type: str, tmp_path: Path) -> None:
    graph = Graph(export(Network(lambda _, v: SINGLE[op_type](v)), SHAPE, tmp_path / "model.onnx"))
    assert [node.op_type for node in graph.nodes] == [op_type]


def test_lowering_without_a_quantizer_changes_no_operator() -> None:
    value = ir.Value(name="images", shape=ir.Shape([1, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Relu", [value])
    node.outputs[0].name = "logits"
    model = ir.Model(ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 21}), ir_version=10)
    lower(model, "int4")
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_padding_by_name_goes_into_the_convolution(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(net.conv(net.images(values))),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 5, 4, padding="same", dilation=2)),
        result=activation(1 / 4, 128),
    )
    path = tmp_path / "model.onnx"
    assert check(network, SHAPE, path)["QLinearConv"] == 1
    assert not Graph(path).of_type("Pad")
