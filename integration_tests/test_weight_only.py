"""Models of which only the weights are quantized run in float, as fast as float models and with no other rounding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.config import ExportSettings
from dfq_plugin.export import export_float, export_onnx
from dfq_plugin.export.packing import Packing
from dfq_plugin.validation.accuracy import onnx_logits, torch_logits
from dfq_plugin.validation.runtime import open_session
from integration_tests.conftest import Maker
from integration_tests.graphs import Graph
from integration_tests.networks import images as patches
from integration_tests.rounding import Layer, Network, export, kernels, run

SHAPE = (3, 16, 16)


def network(bits: int) -> Network:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        deep = net.depthwise(F.max_pool2d(F.relu(net.conv(values)), 2))
        tokens = net.tokens(net.up(deep).flatten(2).transpose(1, 2))
        return net.fc(tokens.mean(1))

    return Network(
        forward,
        conv=Layer(nn.Conv2d(3, 32, 3, padding=1), bits),
        depthwise=Layer(nn.Conv2d(32, 32, 3, padding=1, groups=32), bits),
        up=Layer(nn.ConvTranspose2d(32, 32, 2, stride=2), bits),
        tokens=Layer(nn.Linear(32, 64), bits),
        fc=Layer(nn.Linear(64, 70, bias=False), bits),
    )


def dequantized(quantized: Network) -> Network:
    """The same network with its rounded weights in float, and no quantizer."""
    plain = copy.deepcopy(quantized)
    for layer in plain.modules():
        if isinstance(layer, Layer):
            with torch.no_grad():
                layer.layer.weight.copy_(layer.rounding(layer.layer.weight))
            layer.rounding = nn.Identity()
    return plain


@pytest.mark.parametrize(("bits", "packing"), [(8, "none"), (4, "int4"), (2, "int2"), (3, "bitplanes")])
def test_it_runs_the_kernels_of_the_float_model_and_gives_its_bits(bits: int, packing: Packing, tmp_path: Path) -> None:
    quantized = network(bits)
    path = export(quantized, SHAPE, tmp_path / "weights.onnx", packing)
    plain = export_float(dequantized(quantized), SHAPE, tmp_path / "float.onnx", ExportSettings())
    values = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(path, values), run(plain.path, values))
    assert kernels(path) == kernels(plain.path)
    assert path.stat().st_size < plain.size_bytes


def test_no_product_quantizes_its_other_operand(tmp_path: Path) -> None:
    found = kernels(export(network(4), SHAPE, tmp_path / "weights.onnx"))
    forbidden = {"MatMulNBits", "DequantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert not forbidden & found.keys()


@pytest.mark.parametrize("name", ["mobile", "plain"])
def test_student_without_activation_quantizers_agrees_with_its_file(name: str, make: Maker, tmp_path: Path) -> None:
    student: Any = copy.deepcopy(make(name, 4, 4).student)
    for site, quantizer in student.quantizers():
        if site.kind == "activation":
            quantizer.disable_quantization()
    path = export_onnx(student, tmp_path / "model.onnx", ExportSettings(packing="int4")).path
    graph = Graph(path)
    assert not graph.of_type("QuantizeLinear", "DequantizeLinear")
    tensor = patches(16)
    expected = torch_logits(student, tensor)
    assert (onnx_logits(open_session(path), tensor) - expected).abs().max() < 1e-5 * expected.abs().max()
