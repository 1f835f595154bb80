"""The integer reference against onnxruntime, one operator at a time, with steps and zero points that invite ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration_tests.graphs import GraphBuilder
from integration_tests.reference_checks import RANDOM, STEP, ZERO, check, near_ties, steps, weight

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


BROADCASTS = {
    "channel gate": (6, 1, 1),
    "row": (9,),
    "scalar": (),
    "one image": (1, 6, 9, 9),
    "columns of one channel": (1, 9, 1),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("shape", BROADCASTS)
@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_operand_that_broadcasts(op_type: str, shape: str, swapped: bool, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        codes = graph.constant(RANDOM.integers(0, 256, BROADCASTS[shape]), np.uint8)
        operands = [graph.dequantize(images, STEP, ZERO), graph.dequantize(codes, 1 / 64, 77)]
        result = graph.node(op_type, *(reversed(operands) if swapped else operands))
        return graph.requantize(result, 1 / 16, 101)  # powers of two: the order of Add does not matter

    check(make, tmp_path)


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_near_ties_are_decided_alike(op_type: str, tmp_path: Path) -> None:
    step = float(np.float32(0.0123))
    left, right = near_ties(2, step)
    result = {"Add": step, "Mul": float(left) * float(right) * 64}[op_type]

    def make(graph: GraphBuilder, images: str) -> str:
        codes = [graph.dequantize(images, scale, zero) for scale, zero in ((left, 3), (right, 250))]
        codes[1] = graph.dequantize(graph.node("Transpose", images, perm=[0, 1, 3, 2]), right, 250)
        return graph.requantize(graph.node(op_type, *codes), result, 111)

    check(make, tmp_path)


@pytest.mark.parametrize("own_grids", [False, True], ids=["one grid", "own grids"])
def test_concatenation(own_grids: bool, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        if not own_grids:
            flipped = graph.node("Transpose", images, perm=[0, 1, 3, 2])
            return graph.dequantize(graph.node("Concat", images, flipped, axis=1), STEP, ZERO)
        parts = [graph.dequantize(images, step, zero) for step, zero in ((STEP, ZERO), (0.07, 3), (0.035, 9))]
        return graph.requantize(graph.node("Concat", *parts, axis=1), 0.07, 9)

    check(make, tmp_path)


@pytest.mark.parametrize("op_type", ["Sigmoid", "LeakyRelu"])
def test_function_of_every_code(op_type: str, tmp_path: Path) -> None:
    attributes = {"alpha": 0.1} if op_type == "LeakyRelu" else {}
    for index, (step, zero) in enumerate([(1 / 32, 117), (0.0471, 140), (0.013, 3), (0.09, 128)]):

        def make(graph: GraphBuilder, images: str, step: float = step, zero: int = zero) -> str:
            result = graph.node(op_type, graph.dequantize(images, step, zero), **attributes)
            return graph.requantize(result, 1 / 255 if op_type == "Sigmoid" else step / 2, index * 3)  # noqa: B023

        check(make, tmp_path, np.linspace(-4, 5, 6 * 9 * 9, dtype=np.float32).reshape(1, 6, 9, 9))


AVERAGES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "padded": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "padded and counted": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    "sticking out": {"kernel_shape": [2, 3], "strides": [2, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    "whole image": {"kernel_shape": [9, 9]},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_average_pool(kind: str, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        pooled = graph.node("AveragePool", graph.dequantize(images, 0.0123, ZERO), **AVERAGES[kind])
        return graph.requantize(pooled, 0.0123 / 2, 33)

    check(make, tmp_path)


@pytest.mark.parametrize("sizes", [(6, 9), (6, 5, 4, 3)], ids=["1-D", "3-D"])
def test_convolution_along_other_numbers_of_axes(sizes: tuple[int, ...], tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        half = len(sizes) - 1
        scales = steps(4)
        operands = [graph.weight(weight(4, 6, *[2] * half), scales), graph.bias(weight(4) * 50, STEP, scales)]
        result = graph.node("Conv", graph.dequantize(images, STEP, ZERO), *operands, auto_pad="SAME_UPPER")
        return graph.requantize(result, 1 / 16, 99)

    check(make, tmp_path, RANDOM.uniform(-4, 4, (4, *sizes)).astype(np.float32))


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

    assert check(make, tmp_path).logits_equal is True
