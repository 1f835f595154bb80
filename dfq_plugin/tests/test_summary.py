"""From what the stages found to a report: every number in its place, with the images it was measured on."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import nn

from dfq_plugin.baselines import Baseline
from dfq_plugin.batchnorm_match import LayerMatch
from dfq_plugin.config import Config, load_config
from dfq_plugin.finetuning import History
from dfq_plugin.images import LabelledImages
from dfq_plugin.report import Report
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite, Student
from dfq_plugin.summary import build_report, describe, file_metadata
from dfq_plugin.synthetic_set import Provenance, SyntheticSet
from dfq_plugin.teacher import PIXELS_NOT_KNOWN, ModelFacts, Teacher
from dfq_plugin.validation import Census, Latency, Overflow, Parity, Quality, Verdict
from dfq_plugin.validation.census import FloatNode

SYNTHETIC = SyntheticSet(
    torch.zeros(6, 3, 8, 8),
    None,
    None,
    Provenance(
        "intraq",
        {"steps": 5},
        3,
        "abc",
        {"torch": "2.15", "nncf": "3.4"},
        "2026-01-01",
        {"curves": {"at": [1, 2], "values": {"batchnorm": [4.0, 2.0]}}},
    ),
)
PLAN = (
    BitAssignment("q1", "weight", "conv1", 4, 8, "first layer"),
    BitAssignment("q2", "weight", "conv2", 4, 4, "requested"),
    BitAssignment("q3", "activation", "conv2", 4, 4, "requested"),
)
SITES = (
    QuantizerSite("q1", "weight", "conv1", (), multiplied=True),
    QuantizerSite("q3", "activation", "conv2", (), multiplied=True),
)
LAYERS = (ProductLayer("conv1", "conv1.weight", None, "q1", "q3"), ProductLayer("fc", "fc.weight", None, "q2", None))
STUDENT = Student(nn.Identity(), (3, 8, 8), SITES, LAYERS, PLAN)
TEACHER = Teacher(nn.Identity(), ModelFacts((3, 8, 8), 10, None, None, ("bn",), "fc", "abc"))
VERDICT = Verdict(
    census=Census(5, 1, (FloatNode("softmax", "Softmax", "because"),), 3, 3, {"QLinearConv": 2}),
    parity=Parity(1000, 0, 7, 1, logits_equal=True, images=4),
    latency=Latency(float_ms=2.0, integer_ms=1.0, runs=9),
    size_bytes=100,
    sqnr_db=(("conv1", 30.0), ("conv2", math.inf)),
)
QUALITY = {
    "teacher": Quality(100.0, 80.0, 0.0, math.inf),
    "student": Quality(90.0, 70.0, 0.2, 12.0),
    "onnx": Quality(89.0, 69.0, 0.3, 11.0),
}
EVIDENCE = LabelledImages(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), "folder:photos")


def config(**more: Any) -> Config:
    content = {"model": {"source": "timm:tiny", "weights": "tag"}, "input_shape": [3, 8, 8], **more}
    return load_config(content)


def build(**changes: Any) -> Report:
    parts: dict[str, Any] = {
        "config": config(),
        "teacher": TEACHER,
        "synthetic": SYNTHETIC,
        "student": STUDENT,
        "history": History((3.0, 1.0)),
        "verdict": VERDICT,
        "float_size_bytes": 400,
        "evidence": EVIDENCE,
        "quality": QUALITY,
        "baselines": {"noise": Baseline(6, Quality(70.0, 60.0, 0.5, 9.0), 12.5)},
        "match": (LayerMatch("bn", 2.0, 0.5, 0.25),),
        "timings_s": {"export": 1.5},
    }
    return build_report(**{**parts, **changes})


def test_set_is_described_by_count_provider_and_seed() -> None:
    assert describe(SYNTHETIC) == "6 calibration images (intraq, seed 3)"


def test_codes_that_overflow_without_exact_sums_are_told() -> None:
    (note,) = set(build(verdict=replace(VERDICT, overflow=Overflow(20000, 1500, 76, 4))).notes) - set(build().notes)
    assert "`session.x64quantprecision` = 1" in note
    assert "1,500 of 20,000 codes of 4 images are others, by up to 76" in note
    assert "overflow_fix" in note
    assert build(verdict=replace(VERDICT, overflow=Overflow(20000, 0, 0, 4))).notes == build().notes


def test_file_says_where_it_comes_from() -> None:
    assert file_metadata(SYNTHETIC, STUDENT) == {
        "provider": "intraq",
        "seed": "3",
        "num_samples": "6",
        "teacher": "abc",
        "bits": "activation 4, weight 4, weight 8",
        "versions": "nncf 3.4, torch 2.15",
    }


def test_file_tells_of_the_set_its_student_was_made_with_not_of_a_later_one() -> None:
    student = Student(nn.Identity(), (3, 8, 8), STUDENT.sites, STUDENT.layers, STUDENT.plan)
    student.calibrated_on = {**SYNTHETIC.origin(), "seed": "77", "provider": "earlier"}
    told = file_metadata(SYNTHETIC, student)
    assert (told["seed"], told["provider"], told["bits"]) == (
        "77",
        "earlier",
        file_metadata(SYNTHETIC, STUDENT)["bits"],
    )


def test_every_number_has_its_place() -> None:
    report = build()
    assert report.model == "timm:tiny (tag)"
    assert report.accuracy == {"teacher": 80.0, "student": 70.0, "onnx": 69.0}
    assert report.agreement == {"student": 90.0, "onnx": 89.0}
    assert report.kl_nats == {"student": 0.2, "onnx": 0.3}
    assert report.logits_sqnr_db == {"student": 12.0, "onnx": 11.0}
    assert (report.census["integer"], report.census["float"]) == (5, 1)
    assert report.census["float_nodes"] == ({"name": "softmax", "op_type": "Softmax", "reason": "because"},)
    assert (report.parity["codes_compared"], report.parity["mismatches"], report.parity["tensors"]) == (1000, 0, 7)
    assert report.latency_ms == {"float": 2.0, "integer": 1.0}
    assert report.size_bytes == {"float": 400, "integer": 100}
    assert report.sqnr_db == VERDICT.sqnr_db
    assert report.losses == {"distillation": (3.0, 1.0)}
    assert report.timings_s == {"export": 1.5}
    assert report.peak_memory_bytes is None or report.peak_memory_bytes > 0


def test_bits_are_listed_as_requested_and_applied() -> None:
    first = build().bits[0]
    assert first == {
        "name": "q1", "kind": "weight", "layer": "conv1", "requested": 4, "applied": 8, "reason": "first layer"
    }  # fmt: skip


def test_every_number_says_on_which_images_it_was_measured() -> None:
    report = build()
    on_calibration = "6 calibration images (intraq, seed 3)"
    assert report.calibration_set == on_calibration
    assert report.measured_on == {
        "parity": f"4 of {on_calibration}",
        "sqnr_db": f"6 of {on_calibration}",
        "latency_ms": "one image of noise",
        "batchnorm_match": "at most 64 images of each kind",
        "agreement": "4 labelled images of folder:photos",
        "accuracy": "4 labelled images of folder:photos",
    }


def test_fresh_synthetic_images_say_what_they_are() -> None:
    evidence = LabelledImages(EVIDENCE.images, None, "4 fresh synthetic images: optimistic", is_real=False)
    assert build(evidence=evidence).measured_on["agreement"] == "4 fresh synthetic images: optimistic"


def test_curves_of_synthesis_have_their_own_place_and_leave_the_provenance() -> None:
    report = build()
    assert report.synthesis_curves == [{"provider": "intraq", "at": [1, 2], "values": {"batchnorm": [4.0, 2.0]}}]
    assert report.provenance["details"] == {}


def test_layers_are_listed_with_their_bits_and_the_noise_of_what_they_read() -> None:
    assert build().layers == [
        {"layer": "conv1", "weight_bits": 8, "input_bits": 4, "input_sqnr_db": math.inf},
        {"layer": "fc", "weight_bits": 4, "input_bits": None, "input_sqnr_db": None},
    ]


def test_match_is_passed_on() -> None:
    assert build().batchnorm_match == [{"layer": "bn", "noise": 2.0, "synthetic": 0.5, "real": 0.25}]


def test_baselines_are_rows_and_those_left_out_are_notes() -> None:
    assert build().baselines == {
        "noise": {
            "images": 6, "accuracy": 60.0, "agreement": 70.0, "kl_nats": 0.5, "logits_sqnr_db": 9.0, "seconds": 12.5
        }
    }  # fmt: skip
    report = build(baselines={"noise": Baseline(6, None, 1.0, "no labels")})
    assert report.baselines == {}
    assert "Baseline 'noise' was left out: no labels" in report.notes


def test_command_repeats_the_job_from_its_resolved_config() -> None:
    assert build().command == "dfq run runs/latest/config.json"
    assert build(config=config(output_dir="my runs/it's")).command == "dfq run 'my runs/it'\"'\"'s/config.json'"


def test_report_says_what_it_was_made_with() -> None:
    machine = build().provenance["machine"]
    assert machine["python"] == platform.python_version()
    assert machine["torch"] == version("torch")
    assert machine["processor"]


def test_provenance_tells_teacher_provider_and_settings() -> None:
    report = build()
    assert report.provenance["provider"] == "intraq"
    assert report.provenance["settings"] == {"steps": 5}
    assert report.provenance["versions"]["nncf"] == "3.4"
    assert report.provenance["teacher_facts"]["num_classes"] == 10
    assert report.config == config().resolved()


def test_nothing_is_claimed_where_nothing_was_measured() -> None:
    verdict = replace(VERDICT, latency=None)
    report = build(evidence=None, quality={}, baselines={}, verdict=verdict, history=History(()))
    assert set(report.accuracy.values()) | set(report.agreement.values()) == {None}
    assert report.latency_ms == {"float": None, "integer": None}
    assert report.losses == {}
    assert "agreement" not in report.measured_on
    assert any("Quality was not measured" in note for note in report.notes)


@pytest.mark.parametrize("labelled", [True, False])
def test_missing_labels_are_said_to_be_missing(labelled: bool) -> None:
    evidence = EVIDENCE if labelled else replace(EVIDENCE, labels=None)
    notes = build(evidence=evidence).notes
    assert any("have no labels, so there is no accuracy" in note for note in notes) != labelled


def test_notes_of_the_config_are_passed_on() -> None:
    notes = config(target_device="VPU").notes
    assert notes
    assert set(build(config=config(target_device="VPU")).notes) >= {f"{note.pointer}: {note.message}" for note in notes}


def test_report_notes_that_the_range_of_pixels_is_not_known() -> None:
    known = replace(TEACHER.facts, mean=(0.5,) * 3, std=(0.25,) * 3)
    unknown = replace(TEACHER.facts, mean=None, std=None)
    assert PIXELS_NOT_KNOWN not in build(teacher=replace(TEACHER, facts=known)).notes
    assert PIXELS_NOT_KNOWN in build(teacher=replace(TEACHER, facts=unknown)).notes


def test_network_without_weights_is_said_to_bring_its_own() -> None:
    assert build(config=load_config({"model": {"source": "python:a.b:c"}, "input_shape": [3, 8, 8]})).model == (
        "python:a.b:c (own weights)"
    )


def test_report_becomes_json_and_back() -> None:
    written = json.dumps(build().to_json(), allow_nan=False)
    again = Report.from_json(json.loads(written))
    assert json.dumps(again.to_json(), allow_nan=False) == written
