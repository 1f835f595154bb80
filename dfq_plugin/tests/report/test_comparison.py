"""Two reports side by side: what differs is marked, what is the same is not."""

from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.report import Report
from dfq_plugin.report.comparison import Group, Row, compare
from dfq_plugin.tests.report.samples import full_content, full_report


def groups_of(left: Report, right: Report) -> dict[str, Group]:
    return {group.title: group for group in compare(left, right)}


def rows_of(group: str, **changes: Any) -> dict[str, Row]:
    """The rows of a group of the full report against a changed one."""
    return {row.label: row for row in groups_of(full_report(), full_report(**changes))[group].rows}


def test_nothing_is_marked_between_a_report_and_itself() -> None:
    groups = compare(full_report(), full_report())
    assert {row.mark for group in groups for row in group.rows} == {""}
    assert {group.warning for group in groups} == {""}
    assert not {"Settings that differ", "Provenance that differs"} & {group.title for group in groups}


def test_empty_reports_can_be_compared() -> None:
    assert {row.mark for group in compare(Report(), Report()) for row in group.rows} == {""}


@pytest.mark.parametrize(
    ("section", "key", "value", "row", "mark"),
    [
        ("accuracy", "onnx", 71.0, "ONNX file (onnxruntime): top-1 accuracy", "better"),
        ("accuracy", "onnx", 60.0, "ONNX file (onnxruntime): top-1 accuracy", "worse"),
        ("accuracy", "onnx", 70.2501, "ONNX file (onnxruntime): top-1 accuracy", ""),
        ("accuracy", "onnx", None, "ONNX file (onnxruntime): top-1 accuracy", "differs"),
        ("agreement", "student", 91.0, "Data-free student (PyTorch): same class as float", "better"),
    ],
)
def test_quality_is_marked_by_what_is_better(section: str, key: str, value: Any, row: str, mark: str) -> None:
    changed = {section: {**full_content()[section], key: value}}
    assert rows_of("Accuracy and agreement", **changed)[row].mark == mark


def test_smaller_divergence_is_better() -> None:
    left, right = (full_report(kl_nats={"student": None, "onnx": value}) for value in (0.5, 0.25))
    rows = {row.label: row for row in groups_of(left, right)["Accuracy and agreement"].rows}
    assert rows["ONNX file (onnxruntime): KL from float"] == Row(
        "ONNX file (onnxruntime): KL from float", "0.5 nats", "0.25 nats", "better"
    )


def test_figures_of_different_images_come_with_a_warning() -> None:
    measured_on = {**full_content()["measured_on"], "agreement": "other", "accuracy": "other", "sqnr_db": "others"}
    groups = groups_of(full_report(), full_report(measured_on=measured_on))
    for title in ("Accuracy and agreement", "Layers"):
        assert groups[title].warning.startswith("Measured on different images")
    assert groups["Accuracy and agreement"].rows[0].mark == "differs"


def test_baseline_of_one_run_only_is_shown_beside_a_dash() -> None:
    rows = rows_of("Accuracy and agreement", baselines={})
    found = rows["Calibrated on 256 images: noise: top-1 accuracy"]
    assert (found.left, found.right, found.mark) == ("60.50 %", "–", "differs")  # noqa: RUF001 - the dash on the page


@pytest.mark.parametrize(("mismatches", "mark"), [(0, ""), (3, "worse")])
def test_mismatches_are_worse(mismatches: int, mark: str) -> None:
    parity = {**full_content()["parity"], "mismatches": mismatches}
    assert rows_of("Integer kernels", parity=parity)["mismatches"].mark == mark


@pytest.mark.parametrize(("size", "mark"), [(1024.0, ""), (512.0, "better"), (2048.0, "worse")])
def test_smaller_file_is_better(size: float, mark: str) -> None:
    rows = rows_of("Size and speed", size_bytes={"float": 4096.0, "integer": size})
    assert rows["integer file"].mark == mark


@pytest.mark.parametrize(
    ("latency", "mark"),
    [((20.0, 8.0), ""), ((10.0, 3.9), ""), ((10.0, 2.0), "better"), ((10.0, 8.0), "worse"), ((None, None), "differs")],
)
def test_speed_is_compared_by_what_each_run_gained(latency: tuple[float | None, float | None], mark: str) -> None:
    rows = rows_of("Size and speed", latency_ms=dict(zip(("float", "integer"), latency, strict=True)))
    assert rows["speed-up"].mark == mark
    assert rows["integer file, time per image"].mark == ""


def layer(name: str, bits: int, decibels: float | None) -> dict[str, Any]:
    return {"layer": name, "weight_bits": bits, "input_bits": 8, "input_sqnr_db": decibels}


def test_layers_are_listed_by_how_much_their_noise_changed() -> None:
    left = full_report(layers=[layer("same", 4, 20.0), layer("better", 4, 20.0), layer("bits", 4, 20.0)])
    right = full_report(
        layers=[layer("same", 4, 20.05), layer("better", 4, 30.0), layer("bits", 8, 20.0), layer("new", 8, 9.0)]
    )
    rows = groups_of(left, right)["Layers"].rows
    assert [(row.label, row.mark) for row in rows] == [
        ("new", "differs"), ("better", "better"), ("same", ""), ("bits", "differs")
    ]  # fmt: skip
    assert (rows[1].left, rows[1].right) == ("W4 A8, 20.0 dB", "W4 A8, 30.0 dB")


def test_layer_that_becomes_exact_is_better() -> None:
    left, right = (full_report(layers=[layer("a", 4, value)]) for value in (20.0, float("inf")))
    assert groups_of(left, right)["Layers"].rows[0].mark == "better"


def test_operators_in_float_of_either_run_are_listed() -> None:
    node = {"name": "softmax", "op_type": "Softmax", "reason": "kept"}
    rows = rows_of("Operators in float", census={"integer": 51, "float": 1, "float_nodes": [node]})
    assert rows["Softmax: kept"] == Row("Softmax: kept", "0", "1", "worse")


@pytest.mark.parametrize(("seconds", "mark"), [(95.0, ""), (120.0, "worse"), (10.0, "better")])
def test_times_within_a_tenth_are_the_same(seconds: float, mark: str) -> None:
    rows = rows_of("What it took", timings_s={"synthesize": seconds, "quantize": 10.0})
    assert rows["synthesize"].mark == mark
    assert rows["quantize"].mark == ""


def test_settings_that_differ_are_listed_with_their_place_and_no_others() -> None:
    left = full_report(config={"a": {"b": 1, "same": 2}, "only": "left"})
    right = full_report(config={"a": {"b": [1, 2], "same": 2}})
    assert groups_of(left, right)["Settings that differ"].rows == (
        Row("a.b", "1", "[1, 2]", "differs"),
        Row("only", "left", "–", "differs"),  # noqa: RUF001
    )
