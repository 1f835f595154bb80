"""Sums of W8A8 on every processor: exact, in sessions of this package; counted, where others would overflow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from dfq_plugin.hardware import EXACT_SUMS, Processor, read_processor
from dfq_plugin.validation import parity
from dfq_plugin.validation.parity import find_overflow
from dfq_plugin.validation.runtime import open_session
from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export

SHAPE = (3, 8, 8)
LARGEST = torch.full((4, *SHAPE), 127 / 16)  # of the codes 255
WITHOUT_VNNI = Processor("An older one", "x86_64", ("avx2",), 1, 1)


def loud_network(*, twice: bool = False) -> Network:
    """Weights of 127 only, so that the largest images overflow 16 bits in every pair of products."""
    layer = Layer(nn.Conv2d(3, 3, 3, padding=1, bias=False))
    with torch.no_grad():
        layer.layer.weight.copy_(127 * layer.rounding.grid.step.reshape(-1, 1, 1, 1).expand_as(layer.layer.weight))
    modules = {"images": activation(1 / 16, 128), "conv": layer, "result": activation(16.0, 0)}
    if twice:
        modules["middle"] = activation(1 / 16, 128)
        return Network(lambda net, values: net.result(net.conv(net.middle(net.conv(net.images(values))))), **modules)
    return Network(lambda net, values: net.result(net.conv(net.images(values))), **modules)


def test_largest_weights_and_activations_are_summed_exactly(tmp_path: Path) -> None:
    network, path = loud_network(), tmp_path / "model.onnx"
    check(network, SHAPE, path)
    (found,) = open_session(path).run(None, {"images": LARGEST.numpy()})
    assert torch.equal(torch.from_numpy(found), network(LARGEST))


def test_codes_that_overflow_without_exact_sums_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, overflows = export(loud_network(), SHAPE, tmp_path / "model.onnx"), read_processor().may_saturate_w8a8
    monkeypatch.setattr(parity, "read_processor", lambda: WITHOUT_VNNI)
    found = find_overflow(path, LARGEST.numpy())
    assert found is not None
    assert (found.codes, found.images) == (2 * LARGEST.numel(), 4)
    assert (found.differing > 0, found.max_difference > 0) == (overflows, overflows)


def test_processor_with_vnni_has_nothing_to_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "read_processor", lambda: Processor("", "x86_64", ("avx2", "avx512_vnni"), 1, 1))
    assert find_overflow(tmp_path / "not looked at.onnx", LARGEST.numpy()) is None


def test_layer_that_runs_twice_is_loaded_and_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(loud_network(twice=True), SHAPE, tmp_path / "model.onnx")
    monkeypatch.setattr(parity, "read_processor", lambda: WITHOUT_VNNI)
    found = find_overflow(path, LARGEST.numpy())
    assert found is not None
    assert found.differing == 0  # onnxruntime gives exact sums to neither


def test_sessions_ask_for_exact_sums(tmp_path: Path) -> None:
    path = export(loud_network(), SHAPE, tmp_path / "model.onnx")
    assert open_session(path).get_session_options().get_session_config_entry(EXACT_SUMS) == "1"
    with pytest.raises(RuntimeError, match=EXACT_SUMS):
        open_session(path, exact_sums=False).get_session_options().get_session_config_entry(EXACT_SUMS)


def test_every_weight_has_a_zero_point_of_its_own(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(net.second(net.middle(net.first(net.images(values))))),
        images=activation(1 / 16, 128),
        first=Layer(nn.Conv2d(3, 3, 3, padding=1)),
        middle=activation(1 / 4, 128),
        second=Layer(nn.Conv2d(3, 3, 3, padding=1), input_step=1 / 4),
        result=activation(1 / 2, 128),
    )
    path = tmp_path / "model.onnx"
    check(network, SHAPE, path)
    graph = Graph(path)
    weights = [node.input for node in graph.of_type("DequantizeLinear") if graph.array(node.input[2]).dtype == "int8"]
    assert len(weights) == 2
    assert max(Counter(name for codes, _, zero in weights for name in (codes, zero)).values()) == 1
