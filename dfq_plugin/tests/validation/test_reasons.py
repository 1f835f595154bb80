"""What is said of an operator that runs in float."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from dfq_plugin.validation.reasons import (
    DYNAMIC,
    MANY_READERS,
    ODD_FORM,
    RELU_ABOVE_ZERO,
    WEIGHT_ONLY,
    Neighbours,
    reason_for,
)

Node = tuple[Any, ...]


def reason(
    *others: Node,
    op_type: str,
    inputs: list[str],
    written: str | None = None,
    output: str = "result",
    **attributes: Any,
) -> str:
    """Why an operator that makes ``result`` runs in float; ``codes`` are dequantized to ``left`` and ``right``."""
    node = helper.make_node(op_type, inputs, [output], name="it", **attributes)
    around = [
        helper.make_node(kind, sources, [target], name=f"node_{target}")
        for kind, sources, target in [
            ("DequantizeLinear", ["codes"], "left"),
            ("DequantizeLinear", ["more"], "right"),
            ("Exp", ["left"], "float"),
            *others,
        ]
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [1.0])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    return reason_for(node, Neighbours(helper.make_graph([node, *around], "g", [], [logits], [weight])), written)


QUANTIZE: Node = ("QuantizeLinear", ["result"], "next")


@pytest.mark.parametrize(
    "op_type", ["LayerNormalization", "Softmax", "Gelu", "HardSigmoid", "ConvTranspose", "Tanh", "ReduceMean", "Exp"]
)
def test_operator_without_an_integer_kernel_says_so(op_type: str) -> None:
    assert reason(QUANTIZE, op_type=op_type, inputs=["left"]) == f"onnxruntime has no integer kernel for {op_type}"


def test_resize_says_in_which_mode() -> None:
    expected = "onnxruntime has no integer kernel for linear Resize"
    assert reason(op_type="Resize", inputs=["left"], mode="linear") == expected
    assert reason(op_type="Resize", inputs=["float"]) == "its input comes in float from Exp node_float"


def test_operator_that_onnxruntime_writes_as_several_is_called_by_its_own_name() -> None:
    expected = "onnxruntime has no integer kernel for HardSwish"
    assert reason(op_type="Mul", inputs=["left", "float"], written="HardSwish") == expected
    assert reason(op_type="HardSigmoid", inputs=["left"], output="_inlfunc_HardSwish_HS_X") == expected


@pytest.mark.parametrize(
    ("op_type", "inputs", "expected"),
    [
        ("Conv", ["float", "right"], "its input comes in float from Exp node_float"),
        ("FusedConv", ["left", "weight"], "its weight comes in float from a constant"),
        ("Gemm", ["left", "right", "weight"], "its bias comes in float from a constant"),
        ("MatMul", ["left", "float"], "its input 2 comes in float from Exp node_float"),
        ("Add", ["images", "right"], "its input 1 comes in float from the network's input"),
        ("Concat", ["left", "right", "float"], "its input 3 comes in float from Exp node_float"),
        ("AveragePool", ["float"], "its input comes in float from Exp node_float"),
        ("MaxPool", ["float"], "its input comes in float from Exp node_float"),
    ],
)
def test_operand_in_float_is_named(op_type: str, inputs: list[str], expected: str) -> None:
    assert reason(QUANTIZE, op_type=op_type, inputs=inputs) == expected


def test_output_that_is_not_quantized_is_named_with_its_reader() -> None:
    expected = "its output is not quantized: Tanh node_a reads it in float"
    assert reason(("Tanh", ["result"], "a"), op_type="Conv", inputs=["left", "right", "weight"]) == expected


def test_output_of_the_network_is_said_to_be_in_float() -> None:
    found = reason(op_type="GlobalAveragePool", inputs=["left"], output="logits")
    assert found == "its output is handed out in float as the network's output"


def test_several_readers_are_said_to_be_too_many() -> None:
    assert reason(QUANTIZE, ("Tanh", ["result"], "a"), op_type="Add", inputs=["left", "right"]) == MANY_READERS


def test_relu_in_front_of_another_zero_point_is_named() -> None:
    assert reason(("Relu", ["result"], "a"), op_type="Add", inputs=["left", "right"]) == RELU_ABOVE_ZERO
    assert reason(QUANTIZE, op_type="FusedConv", inputs=["left", "right"], activation="Relu") == RELU_ABOVE_ZERO


def test_scaled_gemm_is_named() -> None:
    assert reason(QUANTIZE, op_type="Gemm", inputs=["left", "right"], alpha=0.5) == "its alpha or beta is not 1"
    assert reason(QUANTIZE, op_type="Gemm", inputs=["left", "right"], alpha=1.0, transB=1) == ODD_FORM


@pytest.mark.parametrize(("level", "expected"), [(0, WEIGHT_ONLY), (1, WEIGHT_ONLY), (4, DYNAMIC)])
def test_weight_only_product_says_whether_its_activations_stay_float(level: int, expected: str) -> None:
    assert reason(op_type="MatMulNBits", inputs=["float"], accuracy_level=level) == expected


@pytest.mark.parametrize("op_type", ["DynamicQuantizeMatMul", "DynamicQuantizeLinear"])
def test_dynamic_quantization_is_named(op_type: str) -> None:
    assert reason(op_type=op_type, inputs=["float"]) == DYNAMIC
