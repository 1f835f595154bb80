"""The exported file is a file of standard operators: OpenVINO reads it too and comes to the same answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin import quantization
from dfq_plugin.config import ExportSettings, QuantizeSettings
from dfq_plugin.export import export_onnx
from dfq_plugin.export.packing import Packing
from dfq_plugin.hardware import read_processor
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from integration_tests.networks import CLASSES, NETWORKS, images
from integration_tests.rounding import Layer, Network, activation, export, run
from integration_tests.rounding import images as on_grid
from integration_tests.test_export_limits import LIMITS, limited
from integration_tests.test_export_movement import MOVES
from integration_tests.test_export_pools import POOLS, pooled
from integration_tests.test_export_transposed import GEOMETRIES, upsampler
from integration_tests.test_packing import network as packed_network

SHAPE = (3, 8, 8)
# Then OpenVINO's sums of W8A8 overflow, and it cannot be asked for exact ones: weights are halved.
OVERFLOWS = read_processor().may_saturate_w8a8
FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}  # else what is left in float is rounded to bfloat16 on some CPUs


def run_openvino(path: Path, values: Tensor) -> Tensor:
    model = openvino.Core().compile_model(str(path), "CPU", FULL_PRECISION)
    return torch.from_numpy(np.asarray(model(values.numpy())[0]))


def labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ten smooth patterns in noise, and which of them each image shows."""
    patterns = images(CLASSES, seed=99)
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
    return patterns[labels] + images(count, seed=seed) * 0.05, labels


@cache
def trained(name: str) -> nn.Module:
    """A network that tells the patterns apart, as trained networks do: with something to spare."""
    network = NETWORKS[name]().train()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.1
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(150):
        batch, labels = labelled(32, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 4)])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("kernels")
def test_top_1_agrees_with_onnxruntime(name: str, weight_bits: int, activation_bits: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_init_samples": 32, "weight_bits": weight_bits, "activation_bits": activation_bits}
    settings["overflow_fix"] = "enable" if OVERFLOWS else "disable"
    batch, _ = labelled(32, seed=1000)
    synthetic = SyntheticSet(batch, None, None, describe_run("patterns", {}, 1000, "any"))
    student = quantization.quantize(trained(name), synthetic, QuantizeSettings.model_validate(settings))
    path = export_onnx(student, tmp_path / "model.onnx", ExportSettings(packing="int4")).path
    values, labels = labelled(1000, seed=2000)
    ours, theirs = run(path, values).argmax(1), run_openvino(path, values).argmax(1)
    assert (ours == labels).double().mean() > 0.9  # the network has learnt something
    assert (ours == theirs).double().mean() >= 0.995


@pytest.mark.parametrize("packing", ["none", "int4", "bitplanes"])
def test_packed_weights_are_unpacked_rightly(packing: Packing, tmp_path: Path) -> None:
    path = export(packed_network(3), SHAPE, tmp_path / "model.onnx", packing)
    values = on_grid(*SHAPE)
    assert torch.equal(run_openvino(path, values), run(path, values))


def equal_in_both(network: Network, shape: tuple[int, int, int], path: Path) -> None:
    for layer in network.modules():
        if OVERFLOWS and isinstance(layer, Layer):
            layer.halve()
    values = on_grid(*shape)
    export(network, shape, path)
    assert torch.equal(run_openvino(path, values), run(path, values))


@pytest.mark.parametrize("name", MOVES)
def test_moved_codes(name: str, tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(MOVES[name][0](net.quantized(net.conv(net.images(values)))).relu()),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 8, 3, padding=1)),
        quantized=activation(1 / 4, 100),
        result=activation(1 / 8, 0),
    )
    equal_in_both(network, SHAPE, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str, tmp_path: Path) -> None:
    equal_in_both(pooled(POOLS[name][0]), SHAPE, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str, tmp_path: Path) -> None:
    equal_in_both(limited(LIMITS[name][0], 64), SHAPE, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_transposed_convolutions(name: str, tmp_path: Path) -> None:
    equal_in_both(upsampler(**GEOMETRIES[name]), (6, 5, 6), tmp_path / "model.onnx")


def test_attention(tmp_path: Path) -> None:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        tokens = net.images(values).flatten(2).transpose(1, 2)
        queries, keys, content = net.split(net.mixed(tokens)).chunk(3, dim=-1)
        scores = net.weights((queries @ keys.transpose(1, 2) * 0.25).clamp(0.0, 3.0))
        mixed = net.out(net.attended(scores @ content))
        return net.head(net.final(mixed + tokens).mean(1))

    bits = 7 if OVERFLOWS else 8
    network = Network(
        forward,
        images=activation(1 / 16, 128),
        mixed=Layer(nn.Linear(3, 12), bits=bits),
        split=activation(1 / 16, 128),
        weights=activation(1 / 2 ** (bits - 2), 0, bits=bits),  # the product of two activations overflows too
        attended=activation(1 / 2, 128),
        out=Layer(nn.Linear(4, 3), bits=bits, input_step=1 / 2),
        final=activation(1 / 2, 128),
        head=nn.Linear(3, 5),
    )
    values, path = on_grid(*SHAPE), tmp_path / "model.onnx"
    export(network, SHAPE, path)
    assert torch.allclose(run_openvino(path, values), run(path, values), atol=1e-4)


def test_weight_only_model(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.fc(F.relu(net.conv(values)).mean((2, 3))),
        conv=Layer(nn.Conv2d(3, 8, 3), 4),
        fc=Layer(nn.Linear(8, 5), 4),
    )
    values, path = on_grid(*SHAPE), tmp_path / "model.onnx"
    export(network, SHAPE, path, "int4")
    assert torch.allclose(run_openvino(path, values), run(path, values), atol=1e-4)
