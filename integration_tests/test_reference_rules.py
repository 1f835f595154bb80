"""The integer reference against onnxruntime, one operator at a time, with steps and zero points that invite ties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfq_plugin.validation.parity import Parity, compare
from integration_tests.graphs import GraphBuilder

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.uniform(-4, 4, (8, 6, 9, 9)).astype(np.float32)
STEP, ZERO = 1 / 32, 117  # an odd zero point shows whether it is added before or after rounding


Make = Callable[[GraphBuilder, str], str]  # from the codes of the images to the tensor that the graph hands out


def check(make: Make, path: Path, images: Any = IMAGES) -> Parity:
    graph = GraphBuilder(*images.shape[1:])
    output = make(graph, graph.quantize("images", STEP, ZERO))
    parity = compare(graph.save(path / "graph.onnx", output), images, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.codes_compared > 0
    assert parity.tensors_taken == 0
    return parity


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.integers(-127, 128, shape)


def steps(count: int) -> np.ndarray[Any, Any]:
    return 2.0 ** RANDOM.integers(-9, -5, count)


CONVOLUTIONS = {
    "plain": ((8, 6, 3, 3), {}),
    "padded on two sides": ((8, 6, 3, 3), {"pads": [0, 1, 1, 2], "strides": [2, 1]}),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "grouped and dilated": ((8, 3, 3, 3), {"group": 2, "dilations": [2, 2]}),
}


@pytest.mark.parametrize("rectified", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolution(kind: str, rectified: bool, tmp_path: Path) -> None:
    shape, attributes = CONVOLUTIONS[kind]

    def make(graph: GraphBuilder, images: str) -> str:
        scales = steps(shape[0])
        codes, bias = graph.weight(weight(*shape), scales), graph.bias(weight(shape[0]) * 50, STEP, scales)
        result = graph.node("Conv", graph.dequantize(images, STEP, ZERO), codes, bias, **attributes)
        result = graph.node("Relu", result) if rectified else result
        return graph.requantize(result, 1 / 16, 0 if rectified else 99)

    check(make, tmp_path)


def test_convolution_whose_sums_leave_24_bits(tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        codes = graph.weight(np.full((2, 2048, 1, 1), 127), np.array([2.0**-9, 2.0**-8]))
        return graph.requantize(graph.node("Conv", graph.dequantize(images, STEP, ZERO), codes), 2.0, 3)

    images = RANDOM.uniform(3, 4, (4, 2048, 3, 3)).astype(np.float32)
    check(make, tmp_path, images)


@pytest.mark.parametrize("rectified", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("zeros", [(117, 5, 64), (117, 128, 131)])
def test_addition(zeros: tuple[int, int, int], rectified: bool, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        result = graph.node("Add", graph.dequantize(images, STEP, ZERO), graph.requantize("images", 1 / 16, zeros[1]))
        result = graph.node("Relu", result) if rectified else result
        return graph.requantize(result, 1 / 8, 0 if rectified else zeros[2])

    check(make, tmp_path)


@pytest.mark.parametrize("reshaped", [False, True], ids=["kept", "reshaped"])
def test_global_average_pool(reshaped: bool, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        pooled = graph.node("GlobalAveragePool", graph.dequantize(images, STEP, ZERO))
        if reshaped:
            pooled = graph.node("Reshape", pooled, graph.constant([0, -1], np.int64))
        return graph.requantize(pooled, 1 / 64, 33)

    check(make, tmp_path)


@pytest.mark.parametrize("quantized", [False, True], ids=["logits", "codes"])
@pytest.mark.parametrize("kind", ["Gemm", "Gemm with bias", "MatMul"])
def test_matrix_product(kind: str, quantized: bool, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        flat = graph.dequantize(graph.node("Reshape", images, graph.constant([0, -1], np.int64)), STEP, ZERO)
        scales = steps(7)
        if kind == "MatMul":
            result = graph.node("MatMul", flat, graph.weight(weight(486, 7), scales, axis=1))
        else:
            bias = [graph.bias(weight(7) * 50, STEP, scales)] if kind == "Gemm with bias" else []
            result = graph.node("Gemm", flat, graph.weight(weight(7, 486), scales), *bias, transB=1)
        return graph.requantize(result, 1.0, 77) if quantized else result

    parity = check(make, tmp_path)
    assert parity.logits_equal is (None if quantized else True)


MOVEMENTS: dict[str, Make] = {
    "max-pool": lambda graph, codes: graph.node(
        "MaxPool", codes, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]
    ),
    "dilated max-pool": lambda graph, codes: graph.node("MaxPool", codes, kernel_shape=[2, 2], dilations=[3, 2]),
    "slice": lambda graph, codes: graph.node(
        "Slice", codes, *(graph.constant(values, np.int64) for values in ([1, -2], [100, -9], [2, 3], [2, -3]))
    ),
    "pad": lambda graph, codes: graph.node(
        "Pad", codes, graph.constant([0, 1, 0, 2, 0, 0, 1, 0], np.int64), graph.constant(ZERO, np.uint8)
    ),
    "transpose": lambda graph, codes: graph.node("Transpose", codes, perm=[0, 2, 3, 1]),
    "reshape": lambda graph, codes: graph.node("Reshape", codes, graph.constant([0, 2, -1], np.int64)),
    "unsqueeze and squeeze": lambda graph, codes: graph.node(
        "Squeeze",
        graph.node("Unsqueeze", codes, graph.constant([1, 3], np.int64)),
        graph.constant([3], np.int64),
    ),
    "clip": lambda graph, codes: graph.node("Clip", codes, graph.constant(0, np.uint8), graph.constant(150, np.uint8)),
}


@pytest.mark.parametrize("kind", MOVEMENTS)
def test_movement_of_codes(kind: str, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        moved = graph.dequantize(MOVEMENTS[kind](graph, images), STEP, ZERO)
        return graph.requantize(graph.node("Add", moved, moved), 1 / 16, 8)  # compared whatever was moved how

    assert check(make, tmp_path).tensors >= 2


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
    assert parity.logits_equal is None


@pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "Identity", "Relu"])
def test_sum_that_is_moved_before_it_is_quantized_is_taken_over(op_type: str, tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    codes = graph.weight(weight(4, 6, 3, 3), steps(4))
    product = graph.node("Conv", graph.requantize("images", STEP, ZERO), codes)
    extra = [graph.constant([0, -1], np.int64)] if op_type == "Reshape" else []
    result = graph.requantize(graph.node(op_type, product, *extra), 1 / 8, 0)
    parity = compare(graph.save(tmp_path / "graph.onnx", result), IMAGES, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.tensors_taken == (0 if op_type in ("Identity", "Relu") else 1)


def test_float_images_pass_through_movement_and_pooling(tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    pooled = graph.node("MaxPool", "images", kernel_shape=[2, 2])
    amounts = graph.constant([0, 0, 1, 1, 0, 0, 0, 0], np.int64)
    result = graph.requantize(graph.node("Pad", pooled, amounts), STEP, ZERO)
    parity = compare(graph.save(tmp_path / "graph.onnx", result), IMAGES, 10**9)
    assert (parity.mismatches, parity.tensors + parity.tensors_taken) == (0, 1)
