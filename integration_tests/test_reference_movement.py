"""The integer reference against onnxruntime, where codes and values are only moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfq_plugin.validation.parity import compare
from integration_tests.graphs import GraphBuilder
from integration_tests.reference_checks import IMAGES, STEP, ZERO, Make, check, steps, weight

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
    "split": lambda graph, codes: graph.nodes_out("Split", 2, codes, graph.constant([2, 4], np.int64), axis=1)[1],
    "gather": lambda graph, codes: graph.node("Gather", codes, graph.constant([5, -1, 0], np.int64), axis=1),
    "expand": lambda graph, codes: graph.node(
        "Expand",
        graph.node("Unsqueeze", codes, graph.constant([1], np.int64)),
        graph.constant([1, 3, 1, 1, 1], np.int64),
    ),
    "tile": lambda graph, codes: graph.node("Tile", codes, graph.constant([1, 2, 1, 2], np.int64)),
    "depth to space": lambda graph, codes: graph.node(
        "DepthToSpace",
        graph.node("Slice", codes, *(graph.constant([value], np.int64) for value in (0, 4, 1))),
        blocksize=2,
    ),
    "space to depth": lambda graph, codes: graph.node("SpaceToDepth", codes, blocksize=3),
    "resize": lambda graph, codes: graph.node(
        "Resize",
        *(codes, "", "", graph.constant([8, 6, 14, 20], np.int64)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "reflected pad": lambda graph, codes: graph.node(
        "Pad", codes, graph.constant([0, 0, 2, 1, 0, 0, 1, 2], np.int64), mode="reflect"
    ),
    "edge pad": lambda graph, codes: graph.node(
        "Pad", codes, graph.constant([0, 0, 2, 1, 0, 0, 1, 2], np.int64), mode="edge"
    ),
    "crop": lambda graph, codes: graph.node(
        "Pad", codes, graph.constant([0, 0, -2, 1, 0, 0, 1, -2], np.int64), graph.constant(ZERO, np.uint8)
    ),
    "max-pool that sticks out": lambda graph, codes: graph.node(
        "MaxPool", codes, kernel_shape=[2, 3], strides=[2, 3], pads=[1, 1, 0, 1], ceil_mode=1
    ),
    "relu": lambda graph, codes: graph.node(
        "Clip", codes, graph.constant(ZERO, np.uint8), graph.constant(255, np.uint8)
    ),
    "clip": lambda graph, codes: graph.node("Clip", codes, graph.constant(0, np.uint8), graph.constant(150, np.uint8)),
}


@pytest.mark.parametrize("kind", MOVEMENTS)
def test_movement_of_codes(kind: str, tmp_path: Path) -> None:
    def make(graph: GraphBuilder, images: str) -> str:
        moved = graph.dequantize(MOVEMENTS[kind](graph, images), STEP, ZERO)
        return graph.requantize(graph.node("Add", moved, moved), 1 / 16, 8)  # compared whatever was moved how

    assert check(make, tmp_path).tensors >= 2


@pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "Identity", "Relu", "MaxPool", "Flatten"])
def test_sum_that_is_moved_before_it_is_quantized(op_type: str, tmp_path: Path) -> None:
    """The quantization moves in front of every operator but Flatten, which leaves the convolution in float."""
    graph = GraphBuilder(6, 9, 9)
    codes = graph.weight(weight(4, 6, 3, 3), steps(4))
    product = graph.node("Conv", graph.requantize("images", STEP, ZERO), codes)
    extra = [graph.constant([0, -1], np.int64)] if op_type == "Reshape" else []
    attributes = {"kernel_shape": [2, 2]} if op_type == "MaxPool" else {}
    result = graph.requantize(graph.node(op_type, product, *extra, **attributes), 1 / 8, 0)
    parity = compare(graph.save(tmp_path / "graph.onnx", result), IMAGES, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.tensors_taken == (op_type == "Flatten")


def test_float_images_pass_through_movement_arithmetic_and_pooling(tmp_path: Path) -> None:
    graph = GraphBuilder(6, 9, 9)
    scaled = graph.node("Add", graph.node("Mul", "images", graph.constant(0.3, np.float32)), "images")
    pooled = graph.node("MaxPool", scaled, kernel_shape=[2, 2])
    amounts = graph.constant([0, 0, 1, 1, 0, 0, 0, 0], np.int64)
    result = graph.requantize(graph.node("Pad", pooled, amounts), STEP, ZERO)
    parity = compare(graph.save(tmp_path / "graph.onnx", result), IMAGES, 10**9)
    assert (parity.mismatches, parity.tensors, parity.tensors_taken) == (0, 1, 0)
