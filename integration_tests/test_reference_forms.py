"""The integer reference against onnxruntime: what stays float, packed weights, and kernels that round otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.accuracy import compare_logits, onnx_logits
from dfq_plugin.validation.census import take_census
from dfq_plugin.validation.parity import compare, require_equal
from dfq_plugin.validation.products import Accumulator
from dfq_plugin.validation.runtime import open_session, size_on_disk
from integration_tests.graphs import GraphBuilder
from integration_tests.reference_checks import IMAGES, RANDOM, STEP, ZERO, check, near_ties, steps, weight


def test_codes_behind_a_float_operator_are_taken_over_and_not_counted(tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    start = graph.requantize("images", STEP, ZERO)
    behind = graph.requantize(graph.node("Exp", start), 1 / 4, 0)
    codes = graph.weight(weight(4, 6, 3, 3), steps(4))
    result = graph.requantize(graph.node("Conv", behind, codes), 1 / 8, 100)
    parity = compare(graph.save(tmp_path / "graph.onnx", result), IMAGES, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.tensors_taken == 1
    assert parity.codes_compared == 8 * (6 * 9 * 9 + 4 * 7 * 7)
    assert parity.logits_equal is True  # they follow from codes that were compared


@pytest.mark.parametrize(
    "readers", [("quantizer", "quantizer"), ("quantizer", "float"), ("relu and quantizer",)], ids=" and ".join
)
@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Add", "Mul"])
def test_operator_that_no_integer_kernel_takes(kind: str, readers: tuple[str, ...], tmp_path: Path) -> None:
    """It runs in float: products are taken over, sums and products of two tensors are known to the last bit."""
    graph = GraphBuilder(6, 9, 9)
    source = graph.requantize("images", STEP, ZERO)
    operands = {
        "Conv": [graph.weight(weight(4, 6, 3, 3), steps(4))],
        "MatMul": [graph.weight(weight(9, 4), steps(4), axis=1)],
    }.get(kind, [graph.requantize("images", 1 / 24, 55)])
    result = graph.node(kind, source, *operands)
    made = []
    for reader, zero in zip(readers, (31, 77), strict=False):
        value = graph.node("Relu", result) if reader == "relu and quantizer" else result
        step = 1 / 16 if kind in {"Add", "Mul"} else 8.0
        made.append(graph.node("Exp", value) if reader == "float" else graph.requantize(value, step, zero))
    path = graph.save(tmp_path / "graph.onnx", graph.node("Sum", *made))
    assert take_census(path).by_type.get(kind, 0) + take_census(path).by_type.get(f"Fused{kind}", 0) == 1
    parity = compare(path, IMAGES / 8, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert (parity.tensors_taken > 0) is (kind in {"Conv", "MatMul"})


@pytest.mark.parametrize("batch", [None, 4], ids=["free batch", "fixed batch"])
@pytest.mark.parametrize("quantized", [False, True], ids=["logits", "codes"])
def test_bias_behind_a_product_with_several_axes(quantized: bool, batch: int | None, tmp_path: Path) -> None:
    graph = GraphBuilder(5, 7)
    scales = near_ties(8, 1 / 4)
    product = graph.node("MatMul", graph.requantize("images", 1 / 4, ZERO), graph.weight(weight(7, 8), scales, axis=1))
    result = graph.node("Add", product, graph.bias(weight(8) * 9, 1 / 4, scales))
    result = graph.requantize(result, 1.0, 77) if quantized else result
    path = graph.save(tmp_path / "graph.onnx", result, batch=batch)
    parity = compare(path, RANDOM.uniform(-20, 20, (8, 5, 7)).astype(np.float32), 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.tensors_taken == (1 if batch and quantized else 0)
    assert parity.logits_equal is (None if batch and not quantized else True)


@pytest.mark.parametrize("packing", ["int4", "int2", "bit planes"])
def test_packed_weights(packing: str, tmp_path: Path) -> None:
    codes = RANDOM.integers(-2, 2, (8, 6, 3, 3))

    def make(graph: GraphBuilder, images: str) -> str:
        if packing == "bit planes":
            unpacked = bit_planes(graph, codes, 2)
        else:
            stored = graph.constant(codes, getattr(ml_dtypes, packing))
            unpacked = graph.node("Cast", stored, to=TensorProto.INT8)
        scale, zeros = graph.constant(steps(8), np.float32), graph.constant(np.zeros(8), np.int8)
        kernel = graph.node("DequantizeLinear", unpacked, scale, zeros, axis=0)
        return graph.requantize(graph.node("Conv", graph.dequantize(images, STEP, ZERO), kernel), 1 / 16, 99)

    parity = check(make, tmp_path, opset=25 if packing == "int2" else 21)
    assert parity.tensors == 2


def bit_planes(graph: GraphBuilder, codes: Any, bits: int) -> str:
    """Codes as bits, eight to a byte, one plane a bit, and how to put them together again."""
    offset = 2 ** (bits - 1)
    planes = [np.packbits((codes.ravel() + offset) >> bit & 1) for bit in range(bits)]
    stored = graph.constant(np.stack(planes)[:, :, None], np.uint8)
    places = graph.constant(np.arange(7, -1, -1).reshape(1, 1, 8), np.uint8)
    spread = graph.node(
        "BitwiseAnd", graph.node("BitShift", stored, places, direction="RIGHT"), graph.constant(1, np.uint8)
    )
    flat = graph.node("Reshape", spread, graph.constant([bits, -1], np.int64))
    cut = [graph.constant(values, np.int64) for values in ([0], [codes.size], [1])]
    used = graph.node("Cast", graph.node("Slice", flat, *cut), to=TensorProto.INT32)
    worth = graph.constant(2 ** np.arange(bits)[:, None], np.int32)
    summed = graph.node("ReduceSum", graph.node("Mul", used, worth), graph.constant([0], np.int64), keepdims=0)
    signed = graph.node("Cast", graph.node("Sub", summed, graph.constant(offset, np.int32)), to=TensorProto.INT8)
    return graph.node("Reshape", signed, graph.constant(codes.shape, np.int64))


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    product = graph.node("Conv", graph.requantize("images", STEP, ZERO), graph.weight(weight(8, 6, 3, 3), steps(8)))
    path = graph.save(tmp_path / "whole.onnx", graph.requantize(product, 1 / 16, 99))
    split = tmp_path / "split.onnx"
    onnx.save(onnx.load(path), split, save_as_external_data=True, location="weights", size_threshold=100)
    assert (tmp_path / "weights").stat().st_size >= 8 * 6 * 3 * 3
    assert compare(split, IMAGES, 10**9) == compare(path, IMAGES, 10**9)
    assert take_census(split) == take_census(path)
    assert size_on_disk(split) == split.stat().st_size + (tmp_path / "weights").stat().st_size


@pytest.mark.parametrize("resized", [False, True], ids=["codes", "resized"])
def test_dense_output(resized: bool, tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    scores = graph.node("Conv", graph.requantize("images", STEP, ZERO), graph.weight(weight(4, 6, 1, 1), steps(4)))
    scores = graph.requantize(scores, 1 / 4, 128)
    if resized:
        scores = graph.node("Resize", scores, "", graph.constant([1, 1, 2, 2], np.float32), mode="linear")
    path = graph.save(tmp_path / "graph.onnx", scores)
    parity = compare(path, IMAGES, 10**9)
    assert (parity.mismatches, parity.tensors_taken) == (0, 0)
    assert parity.logits_equal is (None if resized else True)  # no integer kernel resizes linearly
    logits = onnx_logits(open_session(path), torch.from_numpy(IMAGES))
    assert logits.shape == ((8, 4, 18, 18) if resized else (8, 4, 9, 9))
    quality = compare_logits(logits, logits, None)
    assert (quality.agreement, quality.accuracy) == (100.0, None)


def test_model_that_stops_at_a_node_is_said_to(tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    pooled = graph.node("GlobalAveragePool", graph.requantize("images", 1.0, 0))
    path = graph.save(tmp_path / "graph.onnx", graph.requantize(pooled, 1e-5, 0))
    with pytest.raises(ValidationError, match=r"loads the model but cannot run it: .*out of computation range"):
        compare(path, IMAGES, 1)


def test_other_rounding_is_accepted_within_the_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphBuilder(6, 9, 9)
    source = graph.requantize("images", 1 / 16, ZERO)
    for _ in range(3):  # a difference of one code would grow from layer to layer
        codes = graph.weight(weight(6, 6, 3, 3), np.full(6, 2.0**-5))
        source = graph.requantize(graph.node("Conv", source, codes, pads=[1, 1, 1, 1]), 1.0, 100)
    path = graph.save(tmp_path / "graph.onnx", source)
    exact = Accumulator.requantize
    monkeypatch.setattr(Accumulator, "requantize", lambda self, grid: exact(self, grid) ^ 1)
    strict, lenient = compare(path, IMAGES, 1), compare(path, IMAGES, 1, tolerance=1)
    assert strict.max_difference > 1
    assert (lenient.mismatches, lenient.max_difference, lenient.logits_equal) == (0, 1, None)
    require_equal(lenient, path)
    with pytest.raises(ValidationError, match=f"codes, by up to {strict.max_difference}: "):
        require_equal(strict, path)
