"""What the integer reference makes of each operator, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfq_plugin.tests.validation.models import (
    BIAS,
    IMAGES,
    QUANTIZE,
    REQUANTIZE,
    WEIGHT,
    Node,
    bias,
    build,
    next_codes,
    run,
    weight,
)
from dfq_plugin.validation.integer_reference import open_reference

ROWS: list[Node] = [
    ("Reshape", ["codes", "rows"], "row_codes"),
    ("DequantizeLinear", ["row_codes", "half", "ten"], "row_values"),
]
ROW_SHAPE: dict[str, Any] = {"rows": np.array([2, -1])}
CONV: Node = ("Conv", ["values", "w"], "result")


def test_convolution_makes_the_codes_of_the_quantizer_behind_it() -> None:
    assert next_codes(WEIGHT, CONV, REQUANTIZE, **weight([[[[1, 2], [3, 4]]]])) == [[[[30]]]]  # 0 + 2 + 6 + 12 + 10


def test_convolution_reads_its_attributes() -> None:
    options = {"pads": [1, 0, 0, 1], "strides": [2, 2], "dilations": [1, 1], "group": 1}
    found = next_codes(WEIGHT, (*CONV, options), REQUANTIZE, **weight([[[[1, 2], [3, 4]]]]))
    assert found == [[[[14]]]]  # 1 * 4 and 0 * 3


@pytest.mark.parametrize(
    ("rule", "expected"),
    # 2 - 3, 3 - 0 and nothing below the image; nothing above it, 0 - 0, 0 - 1, 0 - 2, 2 - 3
    [("SAME_UPPER", [[[[9, 13], [10, 10]]]]), ("SAME_LOWER", [[[[10, 9], [8, 9]]]])],
)
def test_convolution_pads_to_the_same_size(rule: str, expected: Any) -> None:
    found = next_codes(WEIGHT, (*CONV, {"auto_pad": rule}), REQUANTIZE, **weight([[[[0, 0], [1, -1]]]]))
    assert found == expected


def test_bias_is_added() -> None:
    nodes: list[Node] = [WEIGHT, BIAS, ("Conv", ["values", "w", "b"], "result"), REQUANTIZE]
    assert next_codes(*nodes, **weight([[[[1]]]]), **bias([8])) == [[[[14, 15], [16, 17]]]]


@pytest.mark.parametrize(
    ("op_type", "codes", "options"),
    [("Gemm", [[1, 2], [3, 4]], {"transB": 1}), ("MatMul", [[1, 3], [2, 4]], {})],
    ids=["transposed gemm", "matmul"],
)
def test_matrix_product_hands_out_its_sum_in_float(op_type: str, codes: Any, options: dict[str, Any]) -> None:
    stored: Node = (*WEIGHT[:3], {"axis": 0 if options else 1})
    product: Node = (op_type, ["row_values", "w"], "result", options)
    found = run(*ROWS, stored, product, output="result", **ROW_SHAPE, **weight(codes))
    assert found.output is not None
    assert found.output.tolist() == [[2.0, 4.0], [8.0, 18.0]]  # rows 0 1 and 2 3


def test_step_of_a_weight_can_lie_along_its_second_axis() -> None:
    constants: dict[str, Any] = {
        "w_codes": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int8),
        "w_step": np.array([1.0, 2.0, 4.0], dtype=np.float32),
        "w_zero": np.zeros(3, dtype=np.int8),
    }
    nodes: list[Node] = [*ROWS, (*WEIGHT[:3], {"axis": 1}), ("MatMul", ["row_values", "w"], "result")]
    found = run(*nodes, output="result", **ROW_SHAPE, **constants)
    assert found.output is not None
    assert found.output.tolist() == [[4.0, 10.0, 24.0], [14.0, 38.0, 96.0]]


@pytest.mark.parametrize("operands", [["product", "b"], ["b", "product"]])
def test_bias_behind_a_matrix_product_joins_its_sum(operands: list[str]) -> None:
    constants: dict[str, Any] = {**weight([[1], [0]]), **bias([2**24 + 1])}
    constants["w_step"], constants["w_zero"] = np.float32(1.0), np.int8(0)
    nodes: list[Node] = [
        *ROWS,
        (*WEIGHT[:3], {"axis": 1}),
        BIAS,
        ("MatMul", ["row_values", "w"], "product"),
        ("Add", operands, "result"),
    ]
    # Sums of 2^24 + 2 and 2^24 + 6; as a float of its own the bias would lose its last unit first.
    found = run(*nodes, output="result", images=IMAGES + 0.5, **ROW_SHAPE, **constants)
    assert found.output is not None
    assert found.output.ravel().tolist() == [2.0**23 + 1, 2.0**23 + 3]


def test_activations_are_multiplied_with_each_other() -> None:
    nodes: list[Node] = [*ROWS, ("MatMul", ["row_values", "row_values"], "result"), REQUANTIZE]
    assert next_codes(*nodes, **ROW_SHAPE) == [[12, 13], [16, 21]]  # 2 3, 6 11


def test_elementwise_operators_make_codes() -> None:
    for op_type, expected in (("Add", [[10, 12], [14, 16]]), ("Mul", [[10, 11], [14, 19]])):
        assert next_codes((op_type, ["values", "values"], "result"), REQUANTIZE) == [[expected]]
    assert next_codes(("Concat", ["values", "values"], "result", {"axis": 3}), REQUANTIZE) == [
        [[[10, 11, 10, 11], [12, 13, 12, 13]]]
    ]


def test_functions_make_codes() -> None:
    fine: Node = ("QuantizeLinear", ["result", "fine", "zero"], "next")
    assert next_codes(("Sigmoid", ["values"], "result"), fine, fine=np.float32(1 / 256)) == [[[[128, 187], [225, 244]]]]
    negative = run(("LeakyRelu", ["values"], "result", {"alpha": 0.5}), REQUANTIZE, images=IMAGES - 2)
    assert negative.codes["next"].tolist() == [[[[9, 10], [10, 11]]]]  # -1 -0.5, 0 1


def test_pools_make_codes() -> None:
    back: Node = ("QuantizeLinear", ["result", "half", "ten"], "next")
    assert next_codes(("GlobalAveragePool", ["values"], "result"), back) == [[[[13]]]]
    options = {"kernel_shape": [1, 2], "pads": [0, 1, 0, 0], "count_include_pad": 1}
    assert next_codes(("AveragePool", ["values"], "result", options), back) == [[[[10, 11], [12, 15]]]]  # 0 .5, 1 2.5


def test_global_average_may_be_reshaped_before_it_is_quantized() -> None:
    nodes: list[Node] = [
        ("GlobalAveragePool", ["values"], "mean"),
        ("Reshape", ["mean", "shape"], "flat"),
        ("QuantizeLinear", ["flat", "half", "ten"], "next"),
    ]
    assert next_codes(*nodes, shape=np.array([0, -1])) == [[13]]


def test_relu_vanishes_in_a_zero_point_of_0() -> None:
    relu: Node = ("Relu", ["result"], "rectified")
    nodes: list[Node] = [WEIGHT, CONV, relu, ("QuantizeLinear", ["rectified", "one", "zero"], "next")]
    assert next_codes(*nodes, **weight([[[[-1]]]])) == [[[[0, 0], [0, 0]]]]
    assert next_codes(*nodes, **weight([[[[1]]]])) == [[[[0, 1], [2, 3]]]]
    behind = next_codes(("Relu", ["values"], "result"), REQUANTIZE, images=IMAGES - 2)
    assert behind == [[[[10, 10], [10, 11]]]]


def test_clip_limits_codes_at_both_ends() -> None:
    bounds: dict[str, Any] = {"low": np.uint8(11), "high": np.uint8(14)}
    assert next_codes(("Clip", ["codes", "low", "high"], "next"), **bounds) == [[[[11, 12], [14, 14]]]]


def test_codes_go_to_another_grid_by_way_of_float() -> None:
    assert next_codes(("QuantizeLinear", ["values", "half", "zero"], "next")) == [[[[0, 2], [4, 6]]]]
    assert next_codes(("QuantizeLinear", ["values", "half", "ten"], "next")) == [[[[10, 12], [14, 16]]]]


MOVEMENTS: list[tuple[Node, dict[str, Any], Any]] = [
    (("MaxPool", ["codes"], "next", {"kernel_shape": [2, 2]}), {}, [[[[16]]]]),
    (("MaxPool", ["codes"], "next", {"kernel_shape": [1, 2], "auto_pad": "SAME_UPPER"}), {}, [[[[12, 12], [16, 16]]]]),
    (("Transpose", ["codes"], "next", {"perm": [0, 1, 3, 2]}), {}, [[[[10, 14], [12, 16]]]]),
    (("Reshape", ["codes", "a"], "next"), {"a": np.array([0, -1])}, [[10, 12, 14, 16]]),
    (("Squeeze", ["codes", "a"], "next"), {"a": np.array([1])}, [[[10, 12], [14, 16]]]),
    (("Unsqueeze", ["codes", "a"], "next"), {"a": np.array([4])}, [[[[[10], [12]], [[14], [16]]]]]),
    (("Identity", ["codes"], "next"), {}, [[[[10, 12], [14, 16]]]]),
    (("Concat", ["codes", "codes"], "next", {"axis": 2}), {}, [[[[10, 12], [14, 16], [10, 12], [14, 16]]]]),
    (("Slice", ["codes", "a", "b"], "next"), {"a": np.array([0, 0, 1]), "b": np.array([1, 1, 2])}, [[[[14, 16]]]]),
    (("Gather", ["codes", "a"], "next", {"axis": 3}), {"a": np.array([-1])}, [[[[12], [16]]]]),
    (("Tile", ["codes", "a"], "next"), {"a": np.array([1, 1, 1, 2])}, [[[[10, 12, 10, 12], [14, 16, 14, 16]]]]),
    (("SpaceToDepth", ["codes"], "next", {"blocksize": 2}), {}, [[[[10]], [[12]], [[14]], [[16]]]]),
    (("Pad", ["codes", "a", "ten"], "next"), {"a": np.array([0, 0, 0, 1, 0, 0, 0, -1])}, [[[[10, 10], [10, 14]]]]),
    (("Pad", ["codes", "a"], "next"), {"a": np.array([0, 0, 0, 0, 0, 0, 0, 1])}, [[[[10, 12, 0], [14, 16, 0]]]]),
    (
        ("Pad", ["codes", "a"], "next", {"mode": "reflect"}),
        {"a": np.array([0, 0, 1, 0, 0, 0, 0, 0])},
        [[[[14, 16], [10, 12], [14, 16]]]],
    ),
    (
        ("Resize", ["codes", "", "a"], "next", {"nearest_mode": "floor"}),
        {"a": np.array([1, 1, 1, 2], dtype=np.float32)},
        [[[[10, 10, 10, 12], [14, 14, 14, 16]]]],
    ),
]


@pytest.mark.parametrize(("node", "constants", "expected"), MOVEMENTS, ids=[f"{case[0][0]}" for case in MOVEMENTS])
def test_movement_keeps_codes(node: Node, constants: dict[str, Any], expected: Any) -> None:
    assert next_codes(node, **constants) == expected


@pytest.mark.parametrize(("node", "constants", "expected"), MOVEMENTS[2:6], ids=[case[0][0] for case in MOVEMENTS[2:6]])
def test_movement_between_an_operator_and_its_quantizer_moves_the_codes(
    node: Node, constants: dict[str, Any], expected: Any
) -> None:
    identity: Node = ("Mul", ["values", "ones"], "result")
    moved: Node = (node[0], ["result", *node[1][1:]], "moved", *node[3:])
    unit: Node = ("DequantizeLinear", ["u", "one", "zero"], "ones")
    back: Node = ("QuantizeLinear", ["moved", "half", "ten"], "next")
    assert next_codes(unit, identity, moved, back, u=np.array([1], dtype=np.uint8), **constants) == expected


def test_values_that_are_moved_are_still_operands_of_an_integer_product() -> None:
    turned: Node = ("Transpose", ["row_values"], "turned", {"perm": [1, 0]})
    nodes: list[Node] = [*ROWS, turned, ("MatMul", ["turned", "row_values"], "result"), REQUANTIZE]
    assert next_codes(*nodes, **ROW_SHAPE) == [[14, 16], [16, 20]]  # 4 6, 6 10


def test_split_hands_out_every_part() -> None:
    found = run(("Split", ["codes", "parts"], ["left", "next"], {"axis": 3}), parts=np.array([1, 1])).codes
    assert (found["left"].tolist(), found["next"].tolist()) == ([[[[10], [14]]]], [[[[12], [16]]]])


def test_shapes_are_computed_on_the_way() -> None:
    nodes: list[Node] = [
        ("Shape", ["images"], "sizes"),
        ("Gather", ["sizes", "first"], "batch"),
        ("Mul", ["batch", "two"], "double"),
        ("Concat", ["double", "rest"], "shape", {"axis": 0}),
        ("Reshape", ["codes", "shape"], "next"),
    ]
    constants = {"first": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
    assert next_codes(*nodes, **constants) == [[10, 12], [14, 16]]


OTHER_FORMS: list[Node] = [
    ("Conv", ["images", "w"], "result"),  # a float operand
    ("Conv", ["values", "images"], "result"),
    ("Conv", ["values", "w", "one"], "result"),  # a float bias
    ("Gemm", ["values", "w"], "result", {"transA": 1}),
    ("Gemm", ["values", "w"], "result", {"alpha": 2.0}),
    ("MatMul", ["values", "images"], "result"),
    ("GlobalAveragePool", ["images"], "result"),
    ("AveragePool", ["images"], "result", {"kernel_shape": [1, 1]}),
    ("Sigmoid", ["images"], "result"),
    ("Resize", ["images", "", "scales"], "result", {"mode": "linear"}),
    ("ConvTranspose", ["values", "w"], "result"),
    ("Softmax", ["values"], "result"),
    ("Add", ["values", "values"], "result", {"domain": "another"}),
]


@pytest.mark.parametrize("node", OTHER_FORMS, ids=lambda node: f"{node[0]} of {' '.join(node[1])}")
def test_what_has_no_exact_form_is_left_out_instead_of_guessed(node: Node) -> None:
    constants = {**weight([[[[1]]]]), "scales": np.ones(4, dtype=np.float32)}
    assert next_codes(WEIGHT, node, REQUANTIZE, **constants) is None


def test_weight_with_steps_along_another_axis_is_left_out() -> None:
    constants = weight([[[[1]]], [[[1]]]])
    constants["w_codes"] = constants["w_codes"].reshape(1, 2, 1, 1)
    nodes: list[Node] = [QUANTIZE, ("Concat", ["codes", "codes"], "wide", {"axis": 1})]
    nodes += [("DequantizeLinear", ["wide", "half", "ten"], "values"), (*WEIGHT[:3], {"axis": 1}), CONV, REQUANTIZE]
    assert "next" not in open_reference(build(nodes, "next", constants)).run(IMAGES, {}).codes
