"""The verdict in words."""

from __future__ import annotations

import pytest

from dfq_plugin.report import Report, judge
from dfq_plugin.tests.report.samples import CALIBRATION, HELD_OUT, full_report

SOFTMAX = {"name": "softmax", "op_type": "Softmax", "reason": "kept in float"}
NOT_COMPARED = {"codes_compared": 0, "mismatches": 0, "tensors": 0}


@pytest.mark.parametrize(("agreement", "level"), [(50.0, "pass"), (49.9, "warn"), (0.0, "warn")])
def test_warns_when_the_file_mostly_answers_otherwise_than_the_float_network(agreement: float, level: str) -> None:
    verdict = judge(full_report(agreement={"student": None, "onnx": agreement}))
    assert verdict.level == level
    assert (verdict.answer == "Deployable") == (level == "pass")


def test_warns_when_quality_was_not_measured() -> None:
    nothing = {"student": None, "onnx": None}
    report = full_report(agreement=nothing, accuracy={"teacher": None, **nothing}, baselines={})
    verdict = judge(report)
    assert (verdict.level, verdict.answer) == ("warn", "Proven, but its quality is not known")


def census(integer: int, in_float: int) -> dict[str, object]:
    return {"integer": integer, "float": in_float, "float_nodes": [SOFTMAX] * in_float}


def test_passes_when_all_is_integer_and_equal() -> None:
    verdict = judge(full_report())
    assert (verdict.level, verdict.answer) == ("pass", "Deployable")
    assert verdict.headline == "All 52 operators run on integer kernels, 12,345,678 codes compared, 0 mismatches."


def test_fails_when_a_code_differs() -> None:
    verdict = judge(full_report(parity={"codes_compared": 1000, "mismatches": 1, "tensors": 2}))
    assert (verdict.level, verdict.answer) == ("fail", "Not deployable")
    assert verdict.headline.endswith("1,000 codes compared, 1 mismatch.")


def test_warns_when_an_operator_runs_in_float() -> None:
    verdict = judge(full_report(census=census(49, 3)))
    assert verdict.level == "warn"
    assert verdict.headline.startswith("49 of 52 operators run on integer kernels")


def layers(asked: int, integer: int, in_float: int) -> dict[str, object]:
    return {**census(52, in_float), "products_asked": asked, "products_integer": integer}


def test_counts_quantized_layers_when_they_are_known() -> None:
    verdict = judge(full_report(census=layers(20, 20, 0)))
    assert verdict.level == "pass"
    assert verdict.headline.startswith("All 20 quantized layers run on integer kernels, 12,345,678 codes")


def test_passes_when_only_operators_without_integer_kernel_run_in_float() -> None:
    verdict = judge(full_report(census=layers(20, 20, 1)))
    assert verdict.level == "pass"
    assert verdict.headline.startswith("All 20 quantized layers run on integer kernels, 1 other operator in float, 12")


def test_fails_when_a_quantized_layer_runs_in_float() -> None:
    verdict = judge(full_report(census=layers(20, 18, 5)))
    assert verdict.level == "fail"
    assert verdict.headline.startswith("18 of 20 quantized layers run on integer kernels, 3 other operators in float,")


@pytest.mark.parametrize(("equal", "level"), [(True, "pass"), (None, "pass"), (False, "fail")])
def test_fails_when_the_logits_differ(equal: bool | None, level: str) -> None:
    parity = {"codes_compared": 9, "mismatches": 0, "tensors": 1, "logits_equal": equal}
    assert judge(full_report(parity=parity)).level == level


def test_warns_when_nothing_was_compared() -> None:
    verdict = judge(full_report(parity=NOT_COMPARED))
    assert verdict.level == "warn"
    assert verdict.headline.endswith("their results were not compared.")


def test_is_unknown_when_the_file_was_not_examined() -> None:
    verdict = judge(Report())
    assert (verdict.level, verdict.sentences) == ("unknown", ())
    assert verdict.headline == "The exported file was not examined."


def test_every_quality_sentence_says_on_which_images() -> None:
    assert judge(full_report()).sentences == (
        "Top-1 accuracy 70.25 %, -4.75 points against the float network (500 images of folder:photos).",
        "Chooses the float network's class on 89.50 % of the images.",
        "The same settings reach a top-1 accuracy of 60.50 % on noise and 72.00 % on real images (folder:photos).",
        "4.00x smaller than the float file.",
        "2.50x faster than the float file (one thread, batch 1).",
    )


@pytest.mark.parametrize(("integer", "words"), [(20.0, "2.00x slower"), (10.0, "1.00x faster")])
def test_speed_says_slower_when_it_is(integer: float, words: str) -> None:
    sentences = judge(full_report(latency_ms={"float": 10.0, "integer": integer})).sentences
    assert sentences[-1].startswith(words)


def test_agreement_names_its_images_when_they_are_others_than_those_of_accuracy() -> None:
    measured_on = {**full_report().measured_on, "agreement": "32 fresh images"}
    assert judge(full_report(measured_on=measured_on)).sentences[1].endswith("of the images (32 fresh images).")


def test_baselines_are_compared_by_agreement_when_there_are_no_labels() -> None:
    nothing = {"teacher": None, "student": None, "onnx": None}
    sentences = judge(full_report(accuracy=nothing)).sentences
    assert (
        "The same settings reach an agreement with the float network of 71.25 % on noise and 93.75 % on real images "
        "(folder:photos)."
    ) in sentences


def test_evidence_says_what_quality_and_proof_rest_on() -> None:
    assert judge(full_report()).evidence == (
        f"Quality: {HELD_OUT}. None of them calibrated the network; that was done on {CALIBRATION}.",
        "Codes: onnxruntime against a reference that does not use it, on 16 noise images.",
    )
    assert judge(Report()).evidence == ("Quality: not measured, there were no images for it.",)
