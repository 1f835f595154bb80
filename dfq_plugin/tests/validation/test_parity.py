"""What is compared, and when a comparison counts as a proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.parity import Parity, _batches, _expose_codes, require_equal

PROVEN = Parity(codes_compared=100, mismatches=0, tensors=3, tensors_taken=0, logits_equal=True, images=4)


def test_equal_codes_are_a_proof() -> None:
    require_equal(PROVEN, "m.onnx")
    require_equal(replace(PROVEN, logits_equal=None), "m.onnx")  # a float operator stands in front of the logits


def test_nothing_compared_is_no_proof() -> None:
    with pytest.raises(ValidationError, match=r"m\.onnx: no tensor of codes could be compared"):
        require_equal(replace(PROVEN, codes_compared=0), "m.onnx")


def test_tensors_that_differ_are_listed_five_at_most() -> None:
    worst = tuple((f"tensor{index}", 9 - index) for index in range(6))
    with pytest.raises(ValidationError) as caught:
        require_equal(replace(PROVEN, mismatches=39, worst=worst), "m.onnx")
    message = str(caught.value)
    assert "differ in 39 of 100 codes: tensor0 (9), tensor1 (8)" in message
    assert "tensor4 (5)." in message
    assert "tensor5" not in message


def test_logits_that_differ_are_no_proof() -> None:
    with pytest.raises(ValidationError, match=r"differ in 0 of 100 codes: the logits\."):
        require_equal(replace(PROVEN, logits_equal=False), "m.onnx")


def test_every_tensor_of_codes_becomes_an_output_behind_the_logits() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["codes"]),
        helper.make_node("Clip", ["codes", "low", "high"], ["clipped"]),
        helper.make_node("MaxPool", ["clipped"], ["pooled"], kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("DequantizeLinear", ["flat", "s", "z"], ["logits"]),
        helper.make_node("Clip", ["logits", "low", "high"], ["float_clip"]),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "graph", [], [logits]))
    exposed = _expose_codes(model)
    assert [output.name for output in exposed.graph.output] == ["logits", "codes", "clipped", "pooled"]
    assert {output.type.tensor_type.elem_type for output in exposed.graph.output[1:]} == {TensorProto.UINT8}
    assert len(model.graph.output) == 1


def test_images_come_in_batches_and_none_is_left_out() -> None:
    images = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    batches = list(_batches(images, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate(batches), images)
