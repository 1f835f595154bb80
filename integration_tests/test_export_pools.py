"""Averages of every kind on integer kernels, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export

Pool = Callable[[Tensor], Tensor]
GLOBAL, WINDOWS = "QLinearGlobalAveragePool", "QLinearAveragePool"

POOLS: dict[str, tuple[Pool, str]] = {
    "of everything": (lambda v: F.adaptive_avg_pool2d(v, 1), GLOBAL),
    "mean": (lambda v: v.mean((2, 3)), GLOBAL),
    "mean, axes kept": (lambda v: v.mean((-1, -2), keepdim=True), GLOBAL),
    "mean of channels": (lambda v: v.mean(1, keepdim=True), GLOBAL),
    "mean of channels last": (lambda v: v.permute(0, 2, 3, 1).mean((1, 2)), GLOBAL),
    "mean of a sequence": (lambda v: v.flatten(2).transpose(1, 2).mean(1), GLOBAL),
    "mean of all axes": (lambda v: v.mean((1, 2, 3)), GLOBAL),
    "adaptive, alike": (lambda v: F.adaptive_avg_pool2d(v, (4, 2)), WINDOWS),
    "adaptive, not alike": (lambda v: F.adaptive_avg_pool2d(v, (3, 5)), WINDOWS),
    "adaptive, larger": (lambda v: F.adaptive_avg_pool2d(v, (16, 12)), WINDOWS),
    "adaptive, the same": (lambda v: F.adaptive_avg_pool2d(v, 8), WINDOWS),
    "windows": (lambda v: F.avg_pool2d(v, 2), WINDOWS),
    "padding counted": (lambda v: F.avg_pool2d(v, 4, 2, 1), WINDOWS),
    "padding not counted": (lambda v: F.avg_pool2d(v, 2, 2, 1, count_include_pad=False), WINDOWS),
    "hanging over": (lambda v: F.avg_pool2d(v, 2, 3, ceil_mode=True), WINDOWS),
    "hanging over the padding": (lambda v: F.avg_pool2d(v, 4, 4, 2, ceil_mode=True), WINDOWS),
    "size rounded up to the same": (lambda v: F.avg_pool2d(v, 2, 2, ceil_mode=True), WINDOWS),
}


def pooled(pool: Pool) -> Network:
    return Network(
        lambda net, values: net.result(pool(net.quantized(net.conv(net.images(values))))),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 8, 3, padding=1)),
        quantized=activation(1 / 4, 128),
        result=activation(1 / 8, 128),
    )


@pytest.mark.parametrize("name", POOLS)
def test_average_runs_on_an_integer_kernel(name: str, tmp_path: Path) -> None:
    pool, kernel = POOLS[name]
    found = check(pooled(pool), (3, 8, 8), tmp_path / "model.onnx")
    assert found[kernel] == 1
    assert found["QuantizeLinear"] == 1
    assert found["ReduceMean"] == 0


def test_pool_that_changes_nothing_is_dropped_where_nothing_is_requantized(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.fc(F.adaptive_avg_pool2d(net.images(values), 8).flatten(1)),
        images=activation(1 / 16, 128),
        fc=Layer(nn.Linear(192, 5)),
    )
    path = tmp_path / "model.onnx"
    assert check(network, (3, 8, 8), path)["QGemm"] == 1
    assert not Graph(path).of_type("AveragePool")


def test_adaptive_pool_of_very_many_elements_is_two_products_in_float(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(F.adaptive_avg_pool2d(net.images(values), 11)),
        images=activation(1 / 16, 128),
        result=activation(1 / 16, 128),
    )
    graph = Graph(export(network, (3, 56, 56), tmp_path / "model.onnx"))
    assert len(graph.of_type("MatMul")) == 2
    assert not graph.of_type("AveragePool", "GatherND")


def test_mean_of_float_values_is_not_moved_about(tmp_path: Path) -> None:
    network = Network(lambda _, values: values.mean(1))
    assert [node.op_type for node in Graph(export(network, (3, 8, 8), tmp_path / "model.onnx")).nodes] == ["ReduceMean"]
