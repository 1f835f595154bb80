"""How the integer reference walks through a file: what it knows, what it takes over, what it lets go of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.tests.validation.models import (
    DEQUANTIZE,
    IMAGES,
    QUANTIZE,
    REQUANTIZE,
    WEIGHT,
    Node,
    build,
    next_codes,
    run,
    weight,
)
from dfq_plugin.validation.integer_reference import IntegerReference, open_reference

CONV: Node = ("Conv", ["values", "w"], "result")
GEMM: Node = ("Gemm", ["values", "w"], "result", {"transB": 1})
FLAT = np.array([[0.0, 1.0, 2.0, 3.0]], dtype=np.float32)
ISLAND: list[Node] = [
    ("Exp", ["values"], "float"),
    ("QuantizeLinear", ["float", "one", "zero"], "behind"),
    ("DequantizeLinear", ["behind", "one", "zero"], "behind_values"),
]


def test_images_become_codes_and_dequantized_codes_are_handed_out() -> None:
    found = run(output="values")
    assert found.codes["codes"].tolist() == [[[[10, 12], [14, 16]]]]
    assert found.output is not None
    assert found.output.tolist() == IMAGES.tolist()


def test_codes_that_are_handed_out_are_no_float_output() -> None:
    found = run(output="codes")
    assert found.output is None
    assert "codes" in found.codes


class TestWhatFuses:
    def test_convolution_without_a_quantizer_of_its_own_is_not_computed(self) -> None:
        assert run(WEIGHT, CONV, output="result", **weight([[[[1]]]])).output is None
        two: list[Node] = [WEIGHT, CONV, REQUANTIZE, ("QuantizeLinear", ["result", "half", "ten"], "other")]
        assert set(run(*two, **weight([[[[1]]]])).codes) == {"codes"}

    def test_relu_in_front_of_another_zero_point_keeps_a_product_in_float(self) -> None:
        nodes: list[Node] = [
            WEIGHT,
            ("Relu", ["result"], "rectified"),
            ("QuantizeLinear", ["rectified", "one", "ten"], "next"),
        ]
        assert next_codes(nodes[0], CONV, *nodes[1:], **weight([[[[1]]]])) is None
        assert next_codes(nodes[0], GEMM, *nodes[1:], images=FLAT, **weight([[1, 0, 0, 0]])) is None

    def test_gemm_that_a_quantizer_and_another_operator_read_is_not_computed(self) -> None:
        other: Node = ("Exp", ["result"], "float")
        assert next_codes(WEIGHT, GEMM, REQUANTIZE, other, images=FLAT, **weight([[1, 0, 0, 0]])) is None

    def test_sum_of_two_tensors_is_computed_in_float_where_nothing_fuses(self) -> None:
        twice: Node = ("Add", ["values", "values"], "result")
        two: list[Node] = [twice, REQUANTIZE, ("QuantizeLinear", ["result", "half", "ten"], "other")]
        found = run(*two).codes
        assert found["next"].tolist() == [[[[10, 12], [14, 16]]]]
        assert found["other"].tolist() == [[[[10, 14], [18, 22]]]]

    def test_what_runs_in_float_by_the_census_is_not_computed(self) -> None:
        constants = weight([[[[1]]]])
        assert next_codes(WEIGHT, CONV, REQUANTIZE, **constants) is not None
        assert next_codes(WEIGHT, CONV, REQUANTIZE, in_float=["node_result"], **constants) is None
        pooled: Node = ("GlobalAveragePool", ["values"], "result")
        assert next_codes(pooled, REQUANTIZE, in_float=["node_result"]) is None

    @pytest.mark.parametrize("batch", ["batch", 2])
    def test_bias_of_a_product_with_several_axes_is_known_only_for_a_free_batch(self, batch: str | int) -> None:
        nodes: list[Node] = [
            *(
                ("DequantizeLinear", ["w_codes", "one", "w_zero"], "w"),
                ("DequantizeLinear", ["b_codes", "half", "b_zero"], "b"),
            ),
            *(("MatMul", ["values", "w"], "product"), ("Add", ["product", "b"], "result"), REQUANTIZE),
        ]
        constants: dict[str, Any] = {
            "w_codes": np.eye(2, dtype=np.int8),
            "w_zero": np.int8(0),
            "b_codes": np.array([2, 4], dtype=np.int32),
            "b_zero": np.int32(0),
        }
        model = build([QUANTIZE, DEQUANTIZE, *nodes], "next", constants)
        shape = model.graph.input[0].type.tensor_type.shape.dim[0]
        if isinstance(batch, int):
            shape.dim_value = batch
        found = open_reference(model).run(IMAGES, {}).codes
        if batch == 2:
            assert "next" not in found
        else:
            assert found["next"].tolist() == [[[[11, 13], [13, 15]]]]


class TestTakingOver:
    def test_given_codes_are_taken_on_behind_a_float_operator(self) -> None:
        nodes: list[Node] = [*ISLAND, WEIGHT, ("Conv", ["behind_values", "w"], "result"), REQUANTIZE]
        given = {"behind": np.full((1, 1, 2, 2), 7, dtype=np.uint8)}
        found = run(*nodes, given=given, **weight([[[[2]]]])).codes
        assert set(found) == {"codes", "next"}
        assert found["next"].tolist() == [[[[24, 24], [24, 24]]]]

    def test_given_codes_never_replace_what_the_reference_computes(self) -> None:
        wrong = np.zeros((1, 1, 2, 2), dtype=np.uint8)
        found = run(output="values", given={"codes": wrong})
        assert found.codes["codes"].tolist() == [[[[10, 12], [14, 16]]]]
        assert found.output is not None
        assert found.output.tolist() == IMAGES.tolist()

    def test_nothing_is_known_behind_a_float_operator_without_given_codes(self) -> None:
        found = run(*ISLAND, ("MaxPool", ["behind"], "next", {"kernel_shape": [2, 2]}))
        assert set(found.codes) == {"codes"}
        assert found.output is None

    def test_given_codes_are_followed_everywhere_when_told_so(self) -> None:
        model = build([QUANTIZE, DEQUANTIZE, ("MaxPool", ["codes"], "next", {"kernel_shape": [2, 2]})], "next", {})
        other = {"codes": np.full((1, 1, 2, 2), 99, dtype=np.uint8)}
        found = {name: codes.tolist() for name, codes in open_reference(model).steps(IMAGES, other, follow=True)}
        assert found == {"codes": [[[[10, 12], [14, 16]]]], "next": [[[[99]]]]}

    def test_every_part_of_an_unknown_tensor_is_unknown(self) -> None:
        split: Node = ("Split", ["behind", "parts"], ["left", "next"], {"axis": 3})
        given = {"next": np.full((1, 1, 2, 1), 3, dtype=np.uint8)}
        found = run(*ISLAND, split, ("Clip", ["next", "zero", "ten"], "clipped"), given=given, parts=np.array([1, 1]))
        assert set(found.codes) == {"codes", "clipped"}


class TestConstants:
    def test_packed_weights_are_unpacked(self) -> None:
        constants = weight([[[[1]]]])
        packed = helper.make_tensor("w_packed", TensorProto.INT4, [1, 1, 1, 1], [-3])
        cast: Node = ("Cast", ["w_packed"], "w_codes", {"to": TensorProto.INT8})
        del constants["w_codes"]
        model = build([QUANTIZE, DEQUANTIZE, cast, WEIGHT, CONV, REQUANTIZE], "next", constants)
        model.graph.initializer.append(packed)
        assert open_reference(model).run(IMAGES, {}).codes["next"].tolist() == [[[[10, 7], [4, 1]]]]

    def test_weights_in_bit_planes_are_unpacked(self) -> None:
        """Code -3 of 3 bits with an offset of 4 is 001: planes of 4, 2, 1."""
        nodes: list[Node] = [
            ("BitShift", ["planes", "places"], "shifted", {"direction": "RIGHT"}),
            ("BitwiseAnd", ["shifted", "bit"], "bits"),
            ("Cast", ["bits"], "wide", {"to": TensorProto.INT32}),
            ("Mul", ["wide", "worth"], "parts"),
            ("ReduceSum", ["parts", "first"], "sum", {"keepdims": 0}),
            ("Sub", ["sum", "offset"], "signed"),
            ("Reshape", ["signed", "shape"], "shaped"),
            ("Cast", ["shaped"], "w_codes", {"to": TensorProto.INT8}),
        ]
        constants = {
            **weight([0]),
            "planes": np.zeros((3, 1), dtype=np.uint8),
            "places": np.full((3, 1), 7, dtype=np.uint8),
            "bit": np.uint8(1),
            "worth": np.array([[4], [2], [1]], dtype=np.int32),
            "first": np.array([0]),
            "offset": np.int32(4),
            "shape": np.array([1, 1, 1, 1]),
        }
        del constants["w_codes"]
        constants["planes"][2] = 128
        assert next_codes(*nodes, WEIGHT, CONV, REQUANTIZE, **constants) == [[[[10, 7], [4, 1]]]]

    def test_what_depends_on_no_image_is_evaluated_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []
        exact = IntegerReference._evaluate

        def spy(self: IntegerReference, operator: Any, inputs: Any) -> Any:
            seen.append(operator.node.op_type)
            return exact(self, operator, inputs)

        monkeypatch.setattr(IntegerReference, "_evaluate", spy)
        reference = open_reference(build([QUANTIZE, DEQUANTIZE, WEIGHT, CONV, REQUANTIZE], "next", weight([[[[1]]]])))
        assert seen == ["DequantizeLinear"]
        for _ in range(2):
            reference.run(IMAGES, {})
        assert seen[1:] == ["QuantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear"] * 2

    def test_weights_may_lie_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        model = build([QUANTIZE, DEQUANTIZE, WEIGHT, CONV, REQUANTIZE], "next", weight([[[[1]]]]))
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        assert open_reference(bare, tmp_path).run(IMAGES, {}).codes["next"].tolist() == [[[[10, 11], [12, 13]]]]


def test_model_with_two_inputs_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="2 inputs and 1 outputs; one of each is needed"):
        open_reference(build([QUANTIZE], "codes", {}, inputs=2))
