"""Transposed convolutions run as ordinary ones on integer kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export, images, run

SHAPE = (6, 5, 6)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "upsampling": {"kernel_size": 2, "stride": 2},
    "cropped": {"kernel_size": 4, "stride": 2, "padding": 1},
    "with output padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "depthwise": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 6},
    "grouped, without bias": {"kernel_size": 3, "stride": 2, "groups": 2, "bias": False},
    "dilated": {"kernel_size": 3, "stride": 3, "dilation": 2, "padding": 2},
    "of stride one": {"kernel_size": 3, "padding": 1},
    "oblong": {"kernel_size": (2, 4), "stride": 2, "padding": (0, 1)},
}


def upsampler(relu: bool = False, **geometry: Any) -> Network:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        up: Tensor = net.up(net.images(values))
        return net.result(F.relu(up) if relu else up)

    return Network(
        forward,
        images=activation(1 / 16, 128),
        up=Layer(nn.ConvTranspose2d(6, 6, **geometry)),
        result=activation(1 / 8, 0 if relu else 128),
    )


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_transposed_convolution_runs_on_an_integer_kernel(name: str, relu: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    found = check(upsampler(relu, **GEOMETRIES[name]), SHAPE, path)
    assert found["QLinearConv"] == 1
    assert found["QuantizeLinear"] == 1
    assert [node.name for node in Graph(path).of_type("Conv")] == ["up/weight"]


def test_channel_steps_go_with_their_channels(tmp_path: Path) -> None:
    graph = Graph(export(upsampler(kernel_size=2, stride=2, groups=2), SHAPE, tmp_path / "model.onnx"))
    (conv,) = graph.of_type("Conv")
    weight = graph.dequantizer(conv, 1)
    steps = graph.array(weight.input[1])
    assert graph.array(weight.input[0]).shape == (24, 3, 1, 1)
    assert steps.shape == (24,)
    assert (steps.reshape(2, 3, 4) == steps.reshape(2, 3, 4)[:1, :, :1]).all()  # alike in groups and phases


@pytest.mark.parametrize(
    "geometry", [{"kernel_size": 3, "stride": (2, 1), "padding": 1}, {"kernel_size": 1, "padding": 1}], ids=str
)
def test_what_cannot_be_rewritten_stays_in_float_and_right(geometry: dict[str, Any], tmp_path: Path) -> None:
    network, path = upsampler(**geometry), tmp_path / "model.onnx"
    graph = Graph(export(network, SHAPE, path))
    assert len(graph.of_type("ConvTranspose")) == 1
    values = images(*SHAPE)
    assert run(path, values).equal(network(values))


def test_transposed_convolution_of_float_images_stays_one(tmp_path: Path) -> None:
    network = Network(lambda net, values: net.up(values), up=Layer(nn.ConvTranspose2d(6, 6, 2, stride=2)))
    assert len(Graph(export(network, SHAPE, tmp_path / "model.onnx")).of_type("ConvTranspose")) == 1
