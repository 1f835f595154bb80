"""How the operators of an optimised graph are counted, and found again in the file they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.census import Census, FloatNode, Names, _count, require_integer
from dfq_plugin.validation.reasons import DYNAMIC, WEIGHT_ONLY

Node = tuple[str, list[str], str]
CODES: Node = ("QuantizeLinear", ["images"], "codes")


def graph(*nodes: Node, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    made = [helper.make_node(op_type, inputs, [output], name=f"node_{output}") for op_type, inputs, output in nodes]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    source = helper.make_tensor_value_info("images", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(made, "graph", [source], [], tensors))


def quantized(op_type: str, output: str) -> list[Node]:
    """A product of two dequantized tensors."""
    return [
        ("DequantizeLinear", [f"{output}_a"], f"{output}_left"),
        ("DequantizeLinear", [f"{output}_b"], f"{output}_right"),
        (op_type, [f"{output}_left", f"{output}_right"], output),
    ]


def count(*nodes: Node, file: list[Node] | None = None, **constants: Any) -> Census:
    """The census of an optimised graph, made of a file with these nodes."""
    return _count(graph(*nodes, constants=constants), Names(graph(*(file or []))))


class TestCounting:
    def test_integer_kernels_are_counted_and_conversions_are_not(self) -> None:
        census = count(
            CODES, ("QLinearConv", ["codes"], "sum"), ("QLinearAdd", ["sum"], "b"), ("DequantizeLinear", ["b"], "c")
        )
        assert (census.integer, census.float) == (2, 0)
        assert census.by_type == {"QuantizeLinear": 1, "QLinearConv": 1, "QLinearAdd": 1, "DequantizeLinear": 1}

    @pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "Slice", "ReorderInput"])
    def test_movement_is_neither_integer_nor_float(self, op_type: str) -> None:
        census = count(CODES, (op_type, ["codes"], "moved"), (op_type, ["images"], "also_moved"))
        assert (census.integer, census.float) == (0, 0)

    @pytest.mark.parametrize("op_type", ["MaxPool", "NhwcMaxPool", "Clip", "Pad", "Resize", "Concat"])
    def test_operator_on_codes_is_integer_and_on_float_values_is_float(self, op_type: str) -> None:
        on_codes = count(CODES, ("Transpose", ["codes"], "moved"), (op_type, ["moved"], "result"))
        assert (on_codes.integer, on_codes.float) == (1, 0)
        on_values = count(CODES, ("DequantizeLinear", ["codes"], "values"), (op_type, ["values"], "result"))
        assert (on_values.integer, on_values.float) == (0, 1)
        assert [(node.name, node.op_type) for node in on_values.float_nodes] == [("node_result", op_type)]

    @pytest.mark.parametrize(
        ("inputs", "integer"),
        [(["codes", "s", "z", "w", "t", "u", ""], 1), ([*"abcdefg", "out_step", "out_zero"], 2)],
        ids=["logits", "codes"],
    )
    def test_what_reads_a_gemm_is_integer_only_when_the_gemm_makes_codes(self, inputs: list[str], integer: int) -> None:
        census = count(CODES, ("QGemm", inputs, "sum"), ("Relu", ["sum"], "result"))
        assert (census.integer, census.float) == (integer, 2 - integer)

    def test_constants_of_codes_are_codes(self) -> None:
        assert count(("Gather2", ["table"], "row"), table=np.zeros(3, dtype=np.uint8)).integer == 1
        assert count(("Gather2", ["table"], "row"), table=np.zeros(3, dtype=np.float32)).float == 1

    def test_arithmetic_on_shapes_is_neither(self) -> None:
        two = np.array([2])
        nodes: list[Node] = [("Shape", ["images"], "a"), ("Mul", ["a", "two"], "b"), ("Concat", ["b", "two"], "c")]
        census = count(*nodes, ("Equal", ["c", "two"], "d"), ("Where", ["d", "c", "two"], "e"), two=two)
        assert (census.integer, census.float) == (0, 0)

    def test_choice_between_float_values_is_float(self) -> None:
        nodes: list[Node] = [
            ("Shape", ["images"], "a"),
            ("Equal", ["a", "a"], "b"),
            ("Where", ["b", "images", "images"], "c"),
        ]
        assert count(*nodes, ("Exp", ["c"], "d")).float == 2

    def test_cast_decides_what_follows(self) -> None:
        model = graph(CODES, ("Cast", ["codes"], "cast"), ("Exp", ["cast"], "result"))
        model.graph.node[1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        assert _count(model, Names(graph())).float == 1


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        *(({"MatMulNBits"}, True), ({"DequantizeLinear", "Conv"}, True)),
        *(({"Conv"}, False), ({"QuantizeLinear"}, False), ({"QuantizeLinear", "DequantizeLinear"}, False)),
    ],
)
def test_network_is_weight_only_when_no_activation_is_quantized(types: set[str], expected: bool) -> None:
    assert Census(0, 1, (), 0, 0, dict.fromkeys(types, 1)).is_weight_only is expected


class TestProducts:
    def test_are_asked_for_when_both_operands_are_dequantized(self) -> None:
        nodes: list[Node] = [
            ("DequantizeLinear", ["a"], "left"),
            ("DequantizeLinear", ["b"], "right"),
            ("Relu", ["left"], "float"),
            ("Transpose", ["right"], "turned"),
            ("Conv", ["left", "right", "bias"], "both"),
            ("Conv", ["float", "right"], "one"),
            ("Gemm", ["left", "weight"], "other"),
            ("Add", ["left", "right"], "no_product"),
            ("MatMul", ["left", "turned"], "moved"),
            ("ConvTranspose", ["left", "right"], "no_kernel"),
        ]
        assert Names(graph(*nodes)).asked == {"node_both", "node_moved"}

    @pytest.mark.parametrize("op_type", ["Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"])
    def test_one_that_runs_in_float_is_missed(self, op_type: str) -> None:
        file = quantized(op_type.removeprefix("Fused"), "result")
        census = count((op_type, ["images"], "result"), file=file)
        assert (census.products_asked, census.products_integer) == (1, 0)

    def test_one_that_nobody_asked_for_hides_none(self) -> None:
        file = [*quantized("Conv", "first"), ("Conv", ["images", "float_weight"], "second")]
        census = count(("Conv", ["images"], "first"), ("QLinearConv", ["codes"], "second"), file=file)
        assert (census.products_asked, census.products_integer) == (1, 0)

    def test_one_that_is_merged_with_its_equal_is_not_missed(self) -> None:
        file = [*quantized("Conv", "first"), *quantized("Conv", "second")]
        census = count(("QLinearConv", ["codes"], "first"), file=file)
        assert (census.products_asked, census.products_integer) == (2, 2)

    @pytest.mark.parametrize(("op_type", "running"), [("MatMul", 0), ("Attention", 0), ("Softmax", 1)])
    def test_one_that_may_be_a_float_operator_of_another_name_is_missed(self, op_type: str, running: int) -> None:
        census = count((op_type, ["images"], "unheard_of"), file=quantized("MatMul", "result"))
        assert (census.products_asked, census.products_integer) == (1, running)


class TestNames:
    FILE = (*quantized("MatMul", "sum"), ("Relu", ["sum"], "rectified"))

    @pytest.mark.parametrize(
        "name",
        [
            *("node_sum", "node_sum_token_5", "node_sum/MatMulAddFusion", "node_sum/MatMulAddFusion_token_12"),
            *("rectified_nchwc", "sum_nchwc", "sum_nchwc_token_3"),
        ],
    )
    def test_of_fused_and_moved_nodes_are_those_in_the_file(self, name: str) -> None:
        assert Names(graph(*self.FILE)).of(helper.make_node("Conv", ["a"], ["b"], name=name)) == "node_sum"

    def test_that_end_like_a_suffix_are_found_first(self) -> None:
        model = graph(*self.FILE)
        model.graph.node[2].name = "node_token_3"
        assert Names(model).of(helper.make_node("Conv", ["a"], ["b"], name="node_token_3")) == "node_token_3"

    def test_that_nobody_knows_stay(self) -> None:
        names = Names(graph(*self.FILE))
        assert names.of(helper.make_node("Conv", ["a"], ["b"], name="other")) == "other"
        assert names.of(helper.make_node("Conv", ["a"], ["b"])) == "b"
        assert names.of(helper.make_node("Conv", ["a"], ["b"], name="_token_3")) == "Conv"

    def test_of_nameless_nodes_are_their_outputs(self) -> None:
        model = graph(*quantized("Conv", "result"))
        for node in model.graph.node:
            node.ClearField("name")
        assert Names(model).asked == {"result"}


class TestRequirement:
    def test_missing_layers_are_refused_with_their_reasons(self) -> None:
        nodes = (
            FloatNode("first", "Conv", "because"),
            FloatNode("second", "Add", "so"),
            FloatNode("third", "Gemm", "too"),
        )
        with pytest.raises(
            ValidationError, match=r"m.onnx: 2 of 3 quantized .* Conv first: because; Gemm third: too\. Set"
        ):
            require_integer(Census(1, 2, nodes, products_asked=3, products_integer=1), "m.onnx")

    def test_a_single_missing_layer_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"1 of 3 quantized layers .* Attention n: -\."):
            require_integer(
                Census(2, 1, (FloatNode("n", "Attention", "-"),), products_asked=3, products_integer=2), "m.onnx"
            )

    def test_float_operators_are_accepted_when_no_product_is_among_them(self) -> None:
        nodes = (FloatNode("n", "Softmax", "-"), FloatNode("m", "MatMulNBits", WEIGHT_ONLY))
        require_integer(Census(3, 1, nodes, products_asked=3, products_integer=3), "m.onnx")

    def test_activations_that_are_quantized_unasked_are_refused(self) -> None:
        nodes = (FloatNode("n", "MatMulNBits", DYNAMIC),)
        with pytest.raises(ValidationError, match="the activations of MatMulNBits n are quantized anew in every run"):
            require_integer(Census(0, 1, nodes, products_asked=0, products_integer=0), "m.onnx")
