"""Quantizers that meet, follow one another or are missing: what becomes of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export, images, kernels, run

SHAPE = (3, 8, 8)


def conv(seed: int = 0, **settings: int) -> Layer:
    return Layer(nn.Conv2d(3, 4, 3, padding=1, **settings), seed=seed)  # type: ignore[arg-type]


def test_parts_of_one_grid_are_concatenated_as_codes(tmp_path: Path) -> None:
    shared = activation(1 / 4, 64)

    def forward(net: nn.Module, values: Tensor) -> Tensor:
        start = net.images(values)
        parts = [net.grid(net.left(start)), F.max_pool2d(net.grid2(F.relu(net.right(start))), 3, 1, 1)]
        return net.result(net.both(torch.cat([*parts, parts[0]], dim=1)))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        left=conv(1),
        right=conv(2),
        grid=shared,
        grid2=shared,
        both=Layer(nn.Conv2d(12, 4, 1), input_step=1 / 4),
        result=activation(1 / 2, 128),
    )
    found = check(network, SHAPE, tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["Concat"], found["QuantizeLinear"]) == (3, 1, 1)
    assert found["QLinearConcat"] == 0


def test_parts_of_different_grids_are_not_taken_for_codes_of_one(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        start = net.images(values)
        return net.result(torch.cat([net.coarse(net.left(start)), net.fine(net.right(start))], dim=1))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        left=conv(1),
        right=conv(2),
        coarse=activation(1 / 2, 128),
        fine=activation(1 / 8, 64),
        result=activation(1 / 4, 128),
    )
    assert check(network, SHAPE, tmp_path / "model.onnx")["QLinearConcat"] == 1


def test_equal_quantizers_of_one_tensor_become_one(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        product = net.conv(net.images(values))
        return net.result(net.one(product) + net.other(product))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        conv=conv(),
        one=activation(1 / 4, 128),
        other=activation(1 / 4, 128),
        result=activation(1 / 2, 128),
    )
    found = check(network, SHAPE, tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"]) == (1, 1)


def test_different_quantizers_of_one_tensor_stay_two(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        product = net.conv(net.images(values))
        return net.fine(product) + net.coarse(product)

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        conv=conv(),
        fine=activation(1 / 8, 128),
        coarse=activation(1 / 2, 128),
    )
    values, path = images(*SHAPE), tmp_path / "model.onnx"
    export(network, SHAPE, path)
    with torch.no_grad():
        assert torch.equal(run(path, values), network(values))


def test_quantizer_on_the_grid_of_its_input_is_dropped(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(net.conv(net.again(net.images(values).flip(2)))),
        images=activation(1 / 16, 128),
        again=activation(1 / 16, 128),
        conv=conv(),
        result=activation(1 / 4, 128),
    )
    path = tmp_path / "model.onnx"
    check(network, SHAPE, path)
    assert len(Graph(path).of_type("QuantizeLinear")) == 2


def test_two_grids_in_a_row_are_not_melted_into_one(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(net.conv(net.second(net.images(values)))),
        images=activation(1 / 16, 128),
        second=activation(1 / 4, 100),
        conv=Layer(nn.Conv2d(3, 4, 3), input_step=1 / 4),
        result=activation(1 / 4, 128),
    )
    path = tmp_path / "model.onnx"
    assert check(network, SHAPE, path)["QLinearConv"] == 1
    (guard,) = Graph(path).of_type("Clip")
    assert [int(Graph(path).array(bound)) for bound in guard.input[1:]] == [0, 255]


def test_shape_of_a_product_is_asked_of_its_codes(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        product = net.conv(net.images(values))
        wide = F.interpolate(net.result(product), size=(product.shape[2] * 2, 3), mode="nearest")
        return wide.reshape(product.shape[0], -1)

    network = Network(forward, images=activation(1 / 16, 128), conv=conv(), result=activation(1 / 4, 128))
    assert check(network, SHAPE, tmp_path / "model.onnx")["QLinearConv"] == 1


def test_layer_that_runs_twice_shares_its_codes(tmp_path: Path) -> None:
    layer = Layer(nn.Conv2d(3, 3, 3, padding=1, bias=False), bits=7)  # 8 bits can overflow without VNNI: see EXACT_SUMS
    network = Network(
        lambda net, values: net.result(net.conv(net.middle(net.conv(net.images(values))))),
        images=activation(1 / 16, 128),
        conv=layer,
        middle=activation(1 / 4, 128),
        result=activation(1 / 2, 128),
    )
    path = tmp_path / "model.onnx"
    assert check(network, SHAPE, path)["QLinearConv"] == 2
    assert [node.name for node in Graph(path).of_type("Conv")] == ["conv/weight", "conv/weight_2"]


def test_last_convolution_keeps_the_name_of_the_output(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(net.conv(net.images(values))).flatten(1),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 5, 8)),
        result=activation(1 / 4, 128),
    )
    path = tmp_path / "model.onnx"
    found = check(network, SHAPE, path)
    assert (found["QLinearConv"], found["DequantizeLinear"]) == (1, 1)
    assert [output.name for output in Graph(path).model.graph.output] == ["logits"]


def test_constant_that_is_quantized_has_fixed_codes(tmp_path: Path) -> None:
    embedding = torch.tensor([0.3, -1.0, 2.26]).reshape(1, 3, 1, 1)
    network = Network(
        lambda net, values: net.result(net.images(values) + net.constant(embedding)),
        images=activation(1 / 16, 128),
        constant=activation(1 / 4, 100),
        result=activation(1 / 8, 128),
    )
    path = tmp_path / "model.onnx"
    assert check(network, SHAPE, path)["QLinearAdd"] == 1
    graph = Graph(path)
    codes = [array.ravel().tolist() for array in map(graph.array, graph.tensors) if array.shape == (1, 3, 1, 1)]
    assert codes == [[101, 96, 109]]


def float_layer(layer: nn.Module) -> nn.Module:
    """Weights between the 8-bit grid's points, so that quantizing them would show."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-999, 1000, parameter.shape, generator=random) / 2048)
    return layer


def test_float_layer_between_quantizers_is_not_quantized_by_onnxruntime(tmp_path: Path) -> None:
    layers = {
        "conv": nn.Conv2d(3, 4, 3, padding=1),
        "bare": nn.Conv2d(4, 4, 3, padding=1, bias=False),
        "up": nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2, bias=False),
        "fc": nn.Linear(256, 5),
    }

    def forward(net: nn.Module, values: Tensor) -> Tensor:
        start = net.images(values)
        for name in ("conv", "bare", "up"):
            start = net.get_submodule(f"after_{name}")(F.relu(net.get_submodule(name)(start)))
        return net.result(net.fc(start.flatten(1)))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        **{name: float_layer(layer) for name, layer in layers.items()},
        **{f"after_{name}": activation(1 / 16, 0) for name in layers},
        result=activation(1 / 8, 128),
    )
    path, values = tmp_path / "model.onnx", images(*SHAPE)
    export(network, SHAPE, path)
    with torch.no_grad():
        assert torch.equal(run(path, values), network(values))
    found = kernels(path)
    assert found["QLinearConv"] == found["QGemm"] == 0
