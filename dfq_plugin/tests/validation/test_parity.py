"""What is compared, and when a comparison counts as a proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from dfq_plugin.errors import ValidationError
from dfq_plugin.hardware import Processor
from dfq_plugin.validation import parity
from dfq_plugin.validation.parity import Parity, _batches, _expose_codes, _Tally, require_equal

PROVEN = Parity(codes_compared=100, mismatches=0, tensors=3, tensors_taken=0, logits_equal=True, images=4)
IMAGES = np.zeros((2, 1), dtype=np.float32)


def codes(*values: int) -> Any:
    return np.array(values, dtype=np.uint8)


class FakeReference:
    """Hands out fixed tensors, and remembers whether it was told to follow the given codes."""

    def __init__(self, **tensors: Any) -> None:
        self.tensors = tensors
        self.follow = False

    def steps(self, _images: Any, _given: Any, *, follow: bool) -> Iterator[tuple[str, Any]]:
        self.follow = follow
        yield from self.tensors.items()


def tally(found: dict[str, Any], logits: Any = None, tolerance: int = 0, **expected: Any) -> Parity:
    counts, reference = _Tally(tolerance), FakeReference(**expected)
    counts.count(reference, IMAGES, found, logits)  # type: ignore[arg-type]
    assert reference.follow is (tolerance > 0)
    return counts.result()


class TestRequirement:
    def test_equal_codes_are_a_proof(self) -> None:
        require_equal(PROVEN, "m.onnx")
        require_equal(replace(PROVEN, logits_equal=None), "m.onnx")  # a float operator stands in front of the logits

    def test_nothing_compared_is_no_proof(self) -> None:
        with pytest.raises(ValidationError, match=r"m\.onnx: no tensor of codes could be compared"):
            require_equal(replace(PROVEN, codes_compared=0), "m.onnx")

    @pytest.mark.parametrize(("instructions", "advised"), [(("avx2",), True), (("avx2", "avx512_vnni"), False)])
    def test_overflow_fix_is_advised_where_sums_may_overflow(
        self, monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], *, advised: bool
    ) -> None:
        monkeypatch.setattr(parity, "read_processor", lambda: Processor("", "x86_64", instructions, 1, 1))
        with pytest.raises(ValidationError) as caught:
            require_equal(replace(PROVEN, mismatches=1), "m.onnx")
        assert ("quantize.overflow_fix" in str(caught.value)) is advised

    def test_tensors_that_differ_are_listed_five_at_most(self) -> None:
        found = {f"tensor{index}": codes(*[0] * 9) for index in range(6)}
        expected = {f"tensor{index}": codes(*[0] * index, *[4] * (9 - index)) for index in range(6)}
        with pytest.raises(ValidationError) as caught:
            require_equal(tally(found, **expected), "m.onnx")
        message = str(caught.value)
        assert "differ in 39 of 54 codes, by up to 4: tensor0 (9), tensor1 (8)" in message
        assert "tensor4 (5)." in message
        assert "tensor5" not in message

    def test_logits_that_differ_are_no_proof(self) -> None:
        with pytest.raises(ValidationError, match=r"differ in 0 of 100 codes: the logits\."):
            require_equal(replace(PROVEN, logits_equal=False), "m.onnx")


class TestCounting:
    def test_every_code_is_compared_and_the_rest_is_taken(self) -> None:
        parity = tally({"a": codes(1, 2), "b": codes(3), "c": codes(4)}, a=codes(1, 2), c=codes(4), d=codes(9))
        assert (parity.codes_compared, parity.tensors, parity.tensors_taken) == (3, 2, 1)
        assert (parity.mismatches, parity.max_difference, parity.worst) == (0, 0, ())
        assert (parity.images, parity.logits_equal) == (2, None)

    def test_differences_are_counted_both_ways(self) -> None:
        parity = tally({"a": codes(255, 7, 0, 5), "b": codes(1)}, a=codes(0, 7, 1, 3), b=codes(2))
        assert (parity.mismatches, parity.max_difference, parity.worst) == (4, 255, (("a", 3), ("b", 1)))

    def test_codes_within_the_tolerance_are_no_mismatches(self) -> None:
        found, expected = codes(1, 2, 3, 4), codes(1, 3, 1, 1)
        for tolerance, mismatches in ((1, 2), (2, 1), (3, 0)):
            parity = tally({"a": found}, tolerance=tolerance, a=expected)
            assert (parity.mismatches, parity.max_difference) == (mismatches, 3)

    def test_another_shape_is_wrong_everywhere(self) -> None:
        parity = tally({"a": np.zeros((2, 3), dtype=np.uint8)}, tolerance=9, a=np.zeros((3, 2), dtype=np.uint8))
        assert (parity.mismatches, parity.max_difference) == (6, 255)

    def test_logits_must_agree_to_the_last_bit_in_every_batch(self) -> None:
        logits = np.array([1.0, 2.0], dtype=np.float32)
        other = np.nextafter(logits, np.float32(9))
        assert tally({}, logits, out=logits).logits_equal is True
        assert tally({}, logits, out=other).logits_equal is False
        counts = _Tally(0)
        for expected in (other, logits):
            counts.count(FakeReference(out=expected), IMAGES, {}, logits)  # type: ignore[arg-type]
        assert counts.result().logits_equal is False
        assert counts.result().images == 4

    def test_logits_are_not_judged_when_codes_may_differ(self) -> None:
        logits = np.array([1.0, 2.0], dtype=np.float32)
        assert tally({}, logits, tolerance=1, out=logits + 1).logits_equal is None

    def test_report_has_these_keys(self) -> None:
        keys = ["codes_compared", "mismatches", "tensors", "tensors_taken", "logits_equal", "images", "worst"]
        assert list(asdict(tally({"a": codes(1)}, a=codes(2)))) == [*keys, "max_difference"]


class TestExposing:
    def expose(self, *nodes: tuple[str, list[str], list[str]], output: str = "logits") -> tuple[list[str], Any]:
        made = [helper.make_node(op_type, inputs, outputs) for op_type, inputs, outputs in nodes]
        logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        model = helper.make_model(helper.make_graph(made, "graph", [], [logits]))
        exposed = _expose_codes(model)
        assert len(model.graph.output) == 1
        return [entry.name for entry in exposed.graph.output], exposed

    def test_every_tensor_of_codes_becomes_an_output_behind_the_logits(self) -> None:
        names, exposed = self.expose(
            ("QuantizeLinear", ["images", "s", "z"], ["codes"]),
            ("Clip", ["codes", "low", "high"], ["clipped"]),
            ("MaxPool", ["clipped"], ["pooled"]),
            ("Reshape", ["pooled", "shape"], ["flat"]),
            ("Split", ["flat"], ["left", "right"]),
            ("Gather", ["right", "indices"], ["chosen"]),
            ("Concat", ["chosen", "left"], ["joined"]),
            ("Resize", ["joined", "", "scales"], ["large"]),
            ("DequantizeLinear", ["large", "s", "z"], ["logits"]),
            ("Clip", ["logits", "low", "high"], ["float_clip"]),
            ("Shape", ["left"], ["sizes"]),
        )
        moved = ["left", "right", "chosen", "joined", "large"]
        assert names == ["logits", "codes", "clipped", "pooled", *moved]  # a reshaped tensor holds the same codes
        assert {entry.type.tensor_type.elem_type for entry in exposed.graph.output[1:]} == {TensorProto.UINT8}

    def test_codes_that_are_handed_out_already_stay_one_output(self) -> None:
        names, _ = self.expose(("QuantizeLinear", ["images", "s", "z"], ["codes"]), output="codes")
        assert names == ["codes"]


def test_images_come_in_batches_and_none_is_left_out() -> None:
    images = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    batches = list(_batches(images, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate(batches), images)
