"""Which operators are left to ONNX's own implementation, and what it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from dfq_plugin.validation.library import OneNodeModels, is_exact

LIBRARY = OneNodeModels([helper.make_opsetid("", 21)])
CODES = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)
FLOATS = np.array([-1.5, 0.5, 3.0], dtype=np.float32)


def evaluate(op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> list[Any] | None:
    names = ["" if array is None else f"{op_type}_in{index}" for index, array in enumerate(inputs)]
    made = [f"{op_type}_{len(inputs)}_{sorted(attributes)}_{index}" for index in range(outputs)]
    arrays = [None if array is None else np.asarray(array) for array in inputs]
    found = LIBRARY.evaluate(helper.make_node(op_type, names, made, **attributes), arrays)
    return None if found is None else [array.tolist() for array in found]


def test_codes_are_moved() -> None:
    assert evaluate("Split", CODES, [1, 1], outputs=2, axis=1) == [[[[[0, 1], [2, 3]]]], [[[[4, 5], [6, 7]]]]]
    assert evaluate("Gather", CODES, [-1], axis=3) == [[[[[1], [3]], [[5], [7]]]]]
    assert evaluate("DepthToSpace", CODES.reshape(1, 4, 1, 2), blocksize=2) == [[[[[0, 2, 1, 3], [4, 6, 5, 7]]]]]
    padded = evaluate("Pad", CODES, [0, 0, 0, 1, 0, 0, 0, 0], mode="reflect")
    assert padded == [[[[[1, 0, 1], [3, 2, 3]], [[5, 4, 5], [7, 6, 7]]]]]


def test_shapes_are_computed() -> None:
    assert evaluate("Shape", CODES, start=1) == [[2, 2, 2]]
    assert evaluate("Div", [7, -7], [2, 2]) == [[3, -3]]  # towards zero
    assert evaluate("ReduceProd", [2, 3, 4], keepdims=0) == [24]
    assert evaluate("Range", 2, 9, 3) == [[2, 5, 8]]
    assert evaluate("Where", [True, False], [1, 2], [3, 4]) == [[1, 4]]


def test_bits_are_unpacked() -> None:
    packed = np.array([0b10, 0b01], dtype=np.uint8)
    assert evaluate("BitShift", packed, np.array([1, 1], dtype=np.uint8), direction="RIGHT") == [[1, 0]]
    assert evaluate("BitwiseAnd", packed, np.uint8(1)) == [[0, 1]]
    assert evaluate("Cast", np.array([200], dtype=np.uint8), to=TensorProto.INT8) == [[-56]]


def test_input_that_is_left_out_stays_out() -> None:
    assert evaluate("Clip", CODES[0, 0], None, np.uint8(2)) == [[[0, 1], [2, 2]]]


def test_floats_go_only_to_operators_that_are_exact() -> None:
    assert evaluate("Add", FLOATS, np.float32(1)) == [[-0.5, 1.5, 4.0]]
    assert evaluate("Relu", FLOATS) == [[0.0, 0.5, 3.0]]
    assert evaluate("Exp", FLOATS) is None
    assert evaluate("ReduceSum", FLOATS, [0]) is None
    assert evaluate("MatMul", FLOATS, FLOATS) is None


def test_same_node_serves_many_inputs() -> None:
    node = helper.make_node("Transpose", ["a"], ["b"])
    for array in (np.zeros((2, 3)), np.ones((3, 1))):
        found = LIBRARY.evaluate(node, [array])
        assert found is not None
        assert found[0].shape == array.shape[::-1]


def test_nothing_is_said_when_the_library_refuses() -> None:
    assert evaluate("Reshape", CODES, [3, 3]) is None
    assert evaluate("NoSuchOperator", CODES) is None


@pytest.mark.parametrize("op_type", ["RandomNormal", "RandomUniform"])
def test_chance_is_never_exact(op_type: str) -> None:
    assert not is_exact(helper.make_node(op_type, [], ["a"], shape=[1]), [])


def test_foreign_and_nested_operators_are_not_exact() -> None:
    assert not is_exact(helper.make_node("Add", ["a"], ["b"], domain="com.microsoft"), [CODES])
    nested = helper.make_graph([], "nested", [], [])
    assert not is_exact(helper.make_node("If", ["a"], ["b"], then_branch=nested, else_branch=nested), [np.array(1)])
