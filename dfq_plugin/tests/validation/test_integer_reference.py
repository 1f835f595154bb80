"""The integer reference, operator by operator, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.validation.integer_reference import ReferenceRun, open_reference

IMAGES = np.array([[[[0.0, 1.0], [2.0, 3.0]]]], dtype=np.float32)
QUANTIZE = ("QuantizeLinear", ["images", "half", "ten"], "codes")  # 0, 1, 2, 3 become 10, 12, 14, 16
DEQUANTIZE = ("DequantizeLinear", ["codes", "half", "ten"], "values")
CONSTANTS: dict[str, Any] = {
    "half": np.float32(0.5),
    "one": np.float32(1.0),
    "ten": np.uint8(10),
    "zero": np.uint8(0),
}

Node = tuple[Any, ...]


def build(nodes: list[Node], output: str, constants: Mapping[str, Any], inputs: int = 1) -> onnx.ModelProto:
    made = [helper.make_node(node[0], node[1], [node[2]], **(node[3] if len(node) > 3 else {})) for node in nodes]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in {**CONSTANTS, **constants}.items()]
    names = ["images", "more"][:inputs]
    sources = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    results = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph(made, "graph", sources, results, tensors))


def run(
    *nodes: Node,
    output: str = "values",
    given: Mapping[str, Any] | None = None,
    images: Any = IMAGES,
    **constants: Any,
) -> ReferenceRun:
    model = build([QUANTIZE, DEQUANTIZE, *nodes], output, constants)
    return open_reference(model).run(images, given or {})


def weight(values: Any, step: float = 1.0) -> dict[str, Any]:
    """Constants of a weight named w, to be read through WEIGHT."""
    count = len(values)
    return {
        "w_codes": np.array(values, dtype=np.int8),
        "w_step": np.full(count, step, dtype=np.float32),
        "w_zero": np.zeros(count, dtype=np.int8),
    }


WEIGHT: Node = ("DequantizeLinear", ["w_codes", "w_step", "w_zero"], "w", {"axis": 0})


def test_images_become_codes() -> None:
    found = run()
    assert found.codes["codes"].tolist() == [[[[10, 12], [14, 16]]]]
    assert found.output is None  # what is handed out are codes, no sum


def test_convolution_hands_out_its_sum_in_float() -> None:
    found = run(WEIGHT, ("Conv", ["values", "w"], "result"), output="result", **weight([[[[1, 2], [3, 4]]]], step=0.25))
    assert found.output is not None
    assert found.output.tolist() == [[[[(0 + 4 + 12 + 24) * 0.5 * 0.25]]]]


def test_convolution_reads_its_attributes() -> None:
    options = {"pads": [1, 0, 0, 1], "strides": [2, 2], "dilations": [1, 1], "group": 1}
    conv = ("Conv", ["values", "w"], "result", options)
    found = run(WEIGHT, conv, output="result", **weight([[[[1, 2], [3, 4]]]]))
    assert found.output is not None
    assert found.output.tolist() == [[[[4.0]]]]  # 2 * 4 and 0 * 3, in steps of a half


def test_relu_stands_between_a_sum_and_its_codes() -> None:
    constants = weight([[[[-1]]]])
    nodes = [WEIGHT, ("Conv", ["values", "w"], "sum"), ("Relu", ["sum"], "rectified")]
    found = run(*nodes, ("QuantizeLinear", ["rectified", "one", "ten"], "next"), output="next", **constants)
    assert found.codes["next"].tolist() == [[[[10, 10], [10, 10]]]]
    plain = run(*nodes[:2], ("QuantizeLinear", ["sum", "one", "ten"], "next"), output="next", **constants)
    assert plain.codes["next"].tolist() == [[[[10, 9], [8, 7]]]]


@pytest.mark.parametrize(
    ("op_type", "codes", "options"),
    [("Gemm", [[1, 2], [3, 4]], {"transB": 1}), ("Gemm", [[1, 3], [2, 4]], {}), ("MatMul", [[1, 3], [2, 4]], {})],
    ids=["transposed gemm", "gemm", "matmul"],
)
def test_matrix_product(op_type: str, codes: Any, options: dict[str, Any]) -> None:
    nodes = [
        ("Reshape", ["codes", "shape"], "rows"),
        ("DequantizeLinear", ["rows", "half", "ten"], "row_values"),
        WEIGHT,
        (op_type, ["row_values", "w"], "result", options),
    ]
    found = run(*nodes, output="result", shape=np.array([2, -1]), **weight(codes))
    assert found.output is not None
    assert found.output.tolist() == [[2.0, 4.0], [8.0, 18.0]]  # rows 0 1 and 2 3


def test_step_of_a_weight_can_lie_along_its_second_axis() -> None:
    constants: dict[str, Any] = {
        "w_codes": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int8),
        "w_step": np.array([1.0, 2.0, 4.0], dtype=np.float32),
        "w_zero": np.zeros(3, dtype=np.int8),
    }
    nodes = [
        ("Reshape", ["codes", "shape"], "rows"),
        ("DequantizeLinear", ["rows", "half", "ten"], "row_values"),
        (*WEIGHT[:3], {"axis": 1}),
        ("MatMul", ["row_values", "w"], "result"),
    ]
    found = run(*nodes, output="result", shape=np.array([2, -1]), **constants)
    assert found.output is not None
    assert found.output.tolist() == [[4.0, 10.0, 24.0], [14.0, 38.0, 96.0]]


def test_addition() -> None:
    nodes = [("Add", ["values", "values"], "sum"), ("QuantizeLinear", ["sum", "one", "ten"], "next")]
    assert run(*nodes, output="next").codes["next"].tolist() == [[[[10, 12], [14, 16]]]]


def test_global_average_may_be_reshaped_before_it_is_quantized() -> None:
    nodes = [
        ("GlobalAveragePool", ["values"], "mean"),
        ("Reshape", ["mean", "shape"], "flat"),
        ("QuantizeLinear", ["flat", "half", "ten"], "next"),
    ]
    assert run(*nodes, output="next", shape=np.array([0, -1])).codes["next"].tolist() == [[13]]


def test_clip_limits_codes() -> None:
    bounds: dict[str, Any] = {"low": np.uint8(11), "high": np.uint8(14)}
    found = run(("Clip", ["codes", "low", "high"], "clipped"), output="clipped", **bounds)
    assert found.codes["clipped"].tolist() == [[[[11, 12], [14, 14]]]]


@pytest.mark.parametrize(
    ("node", "constants", "expected"),
    [
        (("MaxPool", ["codes"], "next", {"kernel_shape": [2, 2]}), {}, [[[[16]]]]),
        (
            ("MaxPool", ["codes"], "next", {"kernel_shape": [1, 2], "pads": [0, 1, 0, 0], "strides": [2, 1]}),
            {},
            [[[[10, 12]]]],
        ),
        (("Transpose", ["codes"], "next", {"perm": [0, 1, 3, 2]}), {}, [[[[10, 14], [12, 16]]]]),
        (("Reshape", ["codes", "a"], "next"), {"a": np.array([0, -1])}, [[10, 12, 14, 16]]),
        (("Squeeze", ["codes", "a"], "next"), {"a": np.array([1])}, [[[10, 12], [14, 16]]]),
        (("Squeeze", ["codes"], "next"), {}, [[10, 12], [14, 16]]),
        (("Unsqueeze", ["codes", "a"], "next"), {"a": np.array([4])}, [[[[[10], [12]], [[14], [16]]]]]),
        (("Identity", ["codes"], "next"), {}, [[[[10, 12], [14, 16]]]]),
        (
            ("Slice", ["codes", "a", "b", "c", "d"], "next"),
            {"a": np.array([-1]), "b": np.array([-9]), "c": np.array([3]), "d": np.array([-1])},
            [[[[12, 10], [16, 14]]]],
        ),
        (("Slice", ["codes", "a", "b"], "next"), {"a": np.array([0, 0, 1]), "b": np.array([1, 1, 2])}, [[[[14, 16]]]]),
        (
            ("Pad", ["codes", "a", "ten"], "next"),
            {"a": np.array([0, 0, 0, 1, 0, 0, 0, 0])},
            [[[[10, 10, 12], [10, 14, 16]]]],
        ),
        (("Pad", ["codes", "a"], "next"), {"a": np.array([0, 0, 0, 0, 0, 0, 0, 1])}, [[[[10, 12, 0], [14, 16, 0]]]]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_movement_keeps_codes(node: Node, constants: dict[str, Any], expected: Any) -> None:
    found = run(node, output="next", **constants).codes["next"]
    assert found.tolist() == expected
    assert found.dtype == np.uint8


def test_packed_weights_are_unpacked() -> None:
    constants = weight([[[[1]]]])
    packed = helper.make_tensor("w_packed", TensorProto.INT4, [1, 1, 1, 1], [-3])
    cast = ("Cast", ["w_packed"], "w_codes", {"to": TensorProto.INT8})
    del constants["w_codes"]
    model = build([QUANTIZE, DEQUANTIZE, cast, WEIGHT, ("Conv", ["values", "w"], "result")], "result", constants)
    model.graph.initializer.append(packed)
    output = open_reference(model).run(IMAGES, {}).output
    assert output is not None
    assert output.tolist() == [[[[0.0, -3.0], [-6.0, -9.0]]]]


def test_float_operator_is_not_computed_and_the_given_codes_are_taken_on() -> None:
    nodes = [
        ("Exp", ["values"], "float"),
        ("QuantizeLinear", ["float", "one", "zero"], "behind"),
        ("DequantizeLinear", ["behind", "one", "zero"], "behind_values"),
        WEIGHT,
        ("Conv", ["behind_values", "w"], "result"),
    ]
    given = {"behind": np.full((1, 1, 2, 2), 7, dtype=np.uint8)}
    found = run(*nodes, output="result", given=given, **weight([[[[2]]]]))
    assert set(found.codes) == {"codes"}
    assert found.output is not None
    assert found.output.tolist() == [[[[14.0, 14.0], [14.0, 14.0]]]]


def test_given_codes_never_replace_what_the_reference_computes() -> None:
    wrong = np.zeros((1, 1, 2, 2), dtype=np.uint8)
    assert run(given={"codes": wrong}).codes["codes"].tolist() == [[[[10, 12], [14, 16]]]]


def test_nothing_is_known_behind_a_float_operator_without_given_codes() -> None:
    nodes = [("Exp", ["values"], "float"), ("QuantizeLinear", ["float", "one", "zero"], "behind")]
    found = run(*nodes, ("MaxPool", ["behind"], "next", {"kernel_shape": [2, 2]}), output="next")
    assert set(found.codes) == {"codes"}
    assert found.output is None


@pytest.mark.parametrize(
    "node",
    [
        ("Conv", ["images", "w"], "next"),  # a float operand
        ("Conv", ["values", "images"], "next"),
        ("Gemm", ["values", "w"], "next", {"transA": 1}),
        ("Add", ["values", "images"], "next"),
        ("Relu", ["values"], "next"),
        ("GlobalAveragePool", ["images"], "next"),
        ("MaxPool", ["images"], "next", {"kernel_shape": [2, 2]}),
        ("MaxPool", ["codes"], "next", {"kernel_shape": [2, 2], "ceil_mode": 1}),
        ("Clip", ["images", "half", "one"], "next"),
        ("Pad", ["codes", "amounts"], "next", {"mode": "reflect"}),
        ("Transpose", ["values"], "next"),
        ("QuantizeLinear", ["values", "half", "ten"], "next"),
    ],
    ids=lambda node: f"{node[0]} of {node[1][0]}",
)
def test_what_has_no_integer_rule_is_left_out_instead_of_guessed(node: Node) -> None:
    found = run(WEIGHT, node, output="next", amounts=np.zeros(8, dtype=np.int64), **weight([[[[1]]]]))
    assert "next" not in found.codes
    assert found.output is None


@pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "Squeeze"])
def test_sum_that_is_moved_is_left_out(op_type: str) -> None:
    inputs = ["sum", "shape"] if op_type == "Reshape" else ["sum"]
    nodes = [WEIGHT, ("Conv", ["values", "w"], "sum"), (op_type, inputs, "moved")]
    found = run(*nodes, output="moved", shape=np.array([0, -1]), **weight([[[[1]]]]))
    assert found.output is None


def test_model_with_two_inputs_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="2 inputs and 1 outputs; one of each is needed"):
        open_reference(build([QUANTIZE], "codes", {}, inputs=2))
