"""Which QuantizeLinear an integer kernel takes its grid from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dfq_plugin.tests.validation.samples import grid
from dfq_plugin.validation.fusion import Wiring

CONSTANTS: dict[str, Any] = {
    "step": np.float32(0.5),
    "steps": np.ones(2, dtype=np.float32),
    "zero": np.uint8(0),
    "seven": np.uint8(7),
    "signed": np.int8(0),
    "bias_codes": np.zeros(3, dtype=np.int32),
    "other_codes": np.zeros(3, dtype=np.uint8),
}
Node = tuple[str, list[str], str]


def wiring(*nodes: Node, outputs: tuple[str, ...] = (), batch: str | int = "batch") -> Wiring:
    made = [helper.make_node(op_type, inputs, [output]) for op_type, inputs, output in nodes]
    source = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph: onnx.GraphProto = helper.make_graph(made, "graph", [source], results)
    return Wiring(graph, {name: np.asarray(array) for name, array in CONSTANTS.items()})


def quantize(source: str, zero: str = "seven", step: str = "step") -> Node:
    return "QuantizeLinear", [source, step, zero], f"{source}_codes"


class TestGridBehind:
    def test_is_that_of_the_only_reader(self) -> None:
        assert wiring(quantize("sum")).grid_behind("sum") == grid(0.5, 7)

    @pytest.mark.parametrize("op_type", ["Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose"])
    def test_quantization_moves_in_front_of_what_only_moves(self, op_type: str) -> None:
        assert wiring((op_type, ["sum"], "a"), (op_type, ["a"], "b"), quantize("b")).grid_behind("sum") == grid(0.5, 7)

    @pytest.mark.parametrize("op_type", ["Flatten", "Gather", "Pad", "Resize", "Split", "Concat", "Sigmoid"])
    def test_nothing_else_is_passed(self, op_type: str) -> None:
        assert wiring((op_type, ["sum"], "a"), quantize("a")).grid_behind("sum") is None

    def test_relu_vanishes_in_a_zero_point_of_0(self) -> None:
        relu = ("Relu", ["sum"], "a")
        assert wiring(relu, quantize("a", "zero")).grid_behind("sum") == grid(0.5, 0)
        assert wiring(relu, ("Reshape", ["a"], "b"), quantize("b", "zero")).grid_behind("sum") == grid(0.5, 0)
        assert wiring(relu, quantize("a", "seven")).grid_behind("sum") is None

    def test_relu_must_come_first(self) -> None:
        moved = wiring(("Reshape", ["sum"], "a"), ("Relu", ["a"], "b"), quantize("b", "zero"))
        assert moved.grid_behind("sum") is None

    def test_several_readers_leave_none(self) -> None:
        assert wiring(quantize("sum"), ("Exp", ["sum"], "a")).grid_behind("sum") is None
        behind = wiring(("Reshape", ["sum"], "a"), quantize("a"), ("Exp", ["a"], "b"))
        assert behind.grid_behind("sum") is None

    def test_output_of_the_network_has_none(self) -> None:
        assert wiring(quantize("sum"), outputs=("sum",)).grid_behind("sum") is None
        assert wiring().grid_behind("sum") is None

    @pytest.mark.parametrize(("zero", "step"), [("signed", "step"), ("seven", "steps"), ("seven", "computed")])
    def test_other_kinds_of_codes_have_none(self, zero: str, step: str) -> None:
        assert wiring(quantize("sum", zero, step)).grid_behind("sum") is None

    def test_one_reader_that_reads_twice_is_one(self) -> None:
        assert wiring(("Add", ["sum", "sum"], "a")).has_bias_behind("sum") is False


class TestQuantizedDirectly:
    def test_by_any_reader_or_behind_a_lone_relu(self) -> None:
        assert wiring(quantize("sum"), ("Exp", ["sum"], "a")).is_quantized_directly("sum")
        assert wiring(("Relu", ["sum"], "a"), quantize("a")).is_quantized_directly("sum")

    def test_not_behind_a_relu_with_other_readers_or_another_operator(self) -> None:
        relu = ("Relu", ["sum"], "a")
        assert not wiring(relu, quantize("a"), ("Exp", ["a"], "b")).is_quantized_directly("sum")
        assert not wiring(relu, quantize("a"), ("Exp", ["sum"], "b")).is_quantized_directly("sum")
        assert not wiring(("Exp", ["sum"], "a"), quantize("a")).is_quantized_directly("sum")


class TestBiasBehind:
    BIAS: Node = ("DequantizeLinear", ["bias_codes", "step"], "bias")

    @pytest.mark.parametrize("operands", [["sum", "bias"], ["bias", "sum"]])
    def test_is_an_add_of_constant_int32_codes(self, operands: list[str]) -> None:
        assert wiring(self.BIAS, ("Add", operands, "a")).has_bias_behind("sum")

    def test_is_not_any_other_operand_or_operator(self) -> None:
        other = ("DequantizeLinear", ["other_codes", "step"], "bias")
        assert not wiring(other, ("Add", ["sum", "bias"], "a")).has_bias_behind("sum")
        assert not wiring(("Add", ["sum", "images"], "a")).has_bias_behind("sum")
        assert not wiring(self.BIAS, ("Mul", ["sum", "bias"], "a")).has_bias_behind("sum")

    def test_is_not_there_when_something_else_reads_the_product(self) -> None:
        twice = wiring(self.BIAS, ("Add", ["sum", "bias"], "a"), ("Exp", ["sum"], "b"))
        assert not twice.has_bias_behind("sum")


def test_graph_is_static_when_every_size_is_fixed() -> None:
    assert wiring(batch=2).is_static
    assert not wiring().is_static
