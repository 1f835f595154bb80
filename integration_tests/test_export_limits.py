"""A Relu or Clip in front of a quantizer becomes the limits of its codes, whatever its zero point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export

# The limits in codes of steps of 1/16 are worked out by hand: number * 16 rounded half to even, plus the zero point.
LIMITS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (F.relu, 0.0, 999.0),
    "relu6": (F.relu6, 0.0, 96.0),
    "hardtanh": (lambda v: F.hardtanh(v, -2.0, 3.0), -32.0, 48.0),
    "between codes": (lambda v: F.hardtanh(v, -0.34375, 0.71875), -6.0, 12.0),  # -5.5 and 11.5, both to even
    "above zero": (lambda v: F.hardtanh(v, 0.5, 2.0), 8.0, 32.0),
    "clamp below": (lambda v: v.clamp(min=-1.0), -16.0, 999.0),
    "clamp above": (lambda v: v.clamp(max=1.25), -999.0, 20.0),
    "maximum": (lambda v: torch.maximum(v, torch.tensor(0.25)), 4.0, 999.0),
}


def limited(limit: Callable[[Tensor], Tensor], zero: int, bits: int = 8) -> Network:
    return Network(
        lambda net, values: net.result(limit(net.conv(net.images(values)))),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 8, 3, padding=1)),
        result=activation(1 / 16, zero, bits),
    )


@pytest.mark.parametrize("zero", [0, 64, 128])
@pytest.mark.parametrize("name", LIMITS)
def test_limit_becomes_a_limit_of_codes(name: str, zero: int, tmp_path: Path) -> None:
    limit, low, high = LIMITS[name]
    found = check(limited(limit, zero), (3, 8, 8), tmp_path / "model.onnx")
    assert found["QLinearConv"] == 1
    expected = (int(max(0, zero + low)), int(min(255, zero + high)))
    graph = Graph(tmp_path / "model.onnx")
    clips = [tuple(int(graph.array(bound)) for bound in clip.input[1:]) for clip in graph.of_type("Clip")]
    assert clips == ([] if expected == (0, 255) else [expected])


@pytest.mark.parametrize(("zero", "bits"), [(0, 4), (8, 4), (2, 2), (0, 3)])
def test_limit_and_few_bits_share_one_clip(zero: int, bits: int, tmp_path: Path) -> None:
    check(limited(F.relu, zero, bits), (3, 8, 8), tmp_path / "model.onnx")
    (clip,) = Graph(tmp_path / "model.onnx").of_type("Clip")
    graph = Graph(tmp_path / "model.onnx")
    assert [int(graph.array(bound)) for bound in clip.input[1:]] == [zero, 2**bits - 1]


def test_relu_stays_where_zero_is_the_smallest_code_and_goes_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert len(Graph(export(limited(F.relu, 0), (3, 8, 8), path)).of_type("Relu")) == 1
    assert len(Graph(export(limited(F.relu6, 0), (3, 8, 8), path)).of_type("Relu")) == 1
    assert not Graph(export(limited(F.relu, 128), (3, 8, 8), path)).of_type("Relu")


def test_relu_that_something_else_reads_stays(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        positive = F.relu(net.conv(net.images(values)))
        return net.result(positive) + positive

    modules = {"images": activation(1 / 16, 128), "conv": Layer(nn.Conv2d(3, 8, 3)), "result": activation(1 / 16, 64)}
    graph = Graph(export(Network(forward, **modules), (3, 8, 8), tmp_path / "model.onnx"))
    (relu,) = graph.of_type("Relu")
    assert relu.output[0] in {quantizer.input[0] for quantizer in graph.of_type("QuantizeLinear")}


@pytest.mark.parametrize("zero", [0, 64])
def test_relu_behind_an_addition_or_a_linear_layer(zero: int, tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        start = net.images(values)
        added = net.added(F.relu(net.left(net.conv(start)) + net.right(start)))
        return net.result(F.relu(net.fc(added.flatten(2))))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 3, 3, padding=1)),
        left=activation(1 / 4, 128),
        right=activation(1 / 8, 128),
        added=activation(1 / 4, zero),
        fc=Layer(nn.Linear(64, 5), input_step=1 / 4),
        result=activation(1.0, zero),
    )
    found = check(network, (3, 8, 8), tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (1, 1, 1)
