"""How the operators of an optimised graph are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.census import Census, FloatNode, _asked_products, _count, require_integer

Node = tuple[str, list[str], str]
CODES: Node = ("QuantizeLinear", ["images"], "codes")


def graph(*nodes: Node, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    made = [helper.make_node(op_type, inputs, [output], name=f"node_{output}") for op_type, inputs, output in nodes]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    return helper.make_model(helper.make_graph(made, "graph", [], [], tensors))


def count(*nodes: Node, asked: set[str] | None = None, **constants: Any) -> Census:
    return _count(graph(*nodes, constants=constants), asked or set())


def test_integer_kernels_are_counted_and_conversions_are_not() -> None:
    census = count(
        CODES, ("QLinearConv", ["codes"], "sum"), ("QLinearAdd", ["sum"], "b"), ("DequantizeLinear", ["b"], "c")
    )
    assert (census.integer, census.float) == (2, 0)
    assert census.by_type == {"QuantizeLinear": 1, "QLinearConv": 1, "QLinearAdd": 1, "DequantizeLinear": 1}
    assert census.products_integer == 1


@pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "Slice", "ReorderInput"])
def test_movement_is_neither_integer_nor_float(op_type: str) -> None:
    census = count(CODES, (op_type, ["codes"], "moved"), (op_type, ["images"], "also_moved"))
    assert (census.integer, census.float) == (0, 0)


@pytest.mark.parametrize("op_type", ["MaxPool", "NhwcMaxPool", "Clip", "Pad"])
def test_operator_on_codes_is_integer_and_on_float_values_is_float(op_type: str) -> None:
    on_codes = count(CODES, ("Transpose", ["codes"], "moved"), (op_type, ["moved"], "result"))
    assert (on_codes.integer, on_codes.float) == (1, 0)
    on_values = count(CODES, ("DequantizeLinear", ["codes"], "values"), (op_type, ["values"], "result"))
    assert (on_values.integer, on_values.float) == (0, 1)
    assert on_values.float_nodes == (
        FloatNode("node_result", op_type, "onnxruntime has no integer kernel for it here"),
    )


@pytest.mark.parametrize(
    ("inputs", "integer"),
    [(["codes", "s", "z", "w", "t", "u", ""], 1), ([*"abcdefg", "out_step", "out_zero"], 2)],
    ids=["logits", "codes"],
)
def test_what_reads_a_gemm_is_integer_only_when_the_gemm_makes_codes(inputs: list[str], integer: int) -> None:
    census = count(CODES, ("QGemm", inputs, "sum"), ("Relu", ["sum"], "result"))
    assert (census.integer, census.float) == (integer, 2 - integer)
    assert census.products_integer == 1


def test_constants_of_codes_are_codes() -> None:
    census = count(("Gather2", ["table"], "row"), table=np.zeros(3, dtype=np.uint8))
    assert census.integer == 1
    assert count(("Gather2", ["table"], "row"), table=np.zeros(3, dtype=np.float32)).float == 1


@pytest.mark.parametrize("op_type", ["Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"])
def test_product_in_float_says_whether_it_was_asked_for(op_type: str) -> None:
    asked = count((op_type, ["x"], "result"), asked={"node_result"})
    assert asked.float_nodes[0].reason == "its output is not quantized in a form that an integer kernel takes"
    assert (asked.products_asked, asked.products_integer) == (1, 0)
    other = count((op_type, ["x"], "result"))
    assert other.float_nodes[0].reason == "it was not asked to be quantized, or one of its operands is not"


def test_product_is_asked_for_when_both_operands_are_dequantized() -> None:
    model = graph(
        ("DequantizeLinear", ["a"], "left"),
        ("DequantizeLinear", ["b"], "right"),
        ("Relu", ["left"], "float"),
        ("Conv", ["left", "right", "bias"], "both"),
        ("Conv", ["float", "right"], "one"),
        ("Gemm", ["left", "weight"], "other"),
        ("Add", ["left", "right"], "no_product"),
        ("MatMul", ["left", "right"], "product"),
    )
    assert _asked_products(model) == {"node_both", "node_product"}


def test_missing_layers_are_refused_with_their_reasons() -> None:
    nodes = (FloatNode("first", "Conv", "because"), FloatNode("second", "Add", "so"))
    with pytest.raises(
        ValidationError, match=r"m.onnx: 2 of 3 quantized layers .* Conv first: because; Add second: so\."
    ):
        require_integer(Census(1, 2, nodes, products_asked=3, products_integer=1), "m.onnx")


def test_a_single_missing_layer_is_refused() -> None:
    with pytest.raises(ValidationError, match="1 of 3 quantized layers"):
        require_integer(Census(2, 1, (FloatNode("n", "Conv", "-"),), products_asked=3, products_integer=2), "m.onnx")


def test_float_operators_are_accepted_when_no_product_is_among_them() -> None:
    require_integer(Census(3, 1, (FloatNode("n", "Softmax", "-"),), products_asked=3, products_integer=3), "m.onnx")
