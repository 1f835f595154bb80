"""What a report accepts, refuses, and becomes as JSON."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from dfq_plugin.errors import ConfigError
from dfq_plugin.report import Report
from dfq_plugin.tests.report.samples import CALIBRATION, HELD_OUT, full_content, full_report


class TestToJson:
    def test_has_the_fixed_keys(self) -> None:
        data = full_report().to_json()
        assert set(data["accuracy"]) == {"teacher", "student", "onnx"}
        assert set(data["agreement"]) == {"student", "onnx"}
        assert set(data["census"]) == {"integer", "float", "float_nodes"}
        assert set(data["parity"]) == {"codes_compared", "mismatches", "tensors"}
        assert set(data["latency_ms"]) == set(data["size_bytes"]) == {"float", "integer"}
        assert set(data["bits"][0]) == {"name", "kind", "layer", "requested", "applied", "reason"}
        assert data["timings_s"] == {"synthesize": 90.0, "quantize": 10.0}
        assert {"provenance", "config", "measured_on", "sqnr_db", "losses", "notes", "peak_memory_bytes"} <= set(data)

    def test_numbers_are_null_when_nothing_was_measured(self) -> None:
        data = Report().to_json()
        assert data["accuracy"] == {"teacher": None, "student": None, "onnx": None}
        assert data["census"] == {"integer": 0, "float": 0, "float_nodes": []}
        assert data["peak_memory_bytes"] is None

    def test_is_strict_json_when_numbers_are_not_finite(self) -> None:
        data = json.loads(json.dumps(full_report().to_json(), allow_nan=False))
        assert data["losses"]["distillation"] == [2.0, None, 0.005]
        assert data["sqnr_db"][2] == ["fc", "inf"]

    def test_turns_odd_values_into_plain_ones(self) -> None:
        class Colour(Enum):
            RED = "red"

        values = {
            "tensor": torch.tensor([1, 2]),
            "path": Path("a/b"),
            "enum": Colour.RED,
            "tuple": (1, 2.5),
            3: None,
            "flag": True,
        }
        plain = full_report(provenance=values).to_json()["provenance"]
        expected = {"tensor": [1, 2], "path": str(Path("a/b")), "enum": "red", "tuple": [1, 2.5], "3": None}
        assert plain == {**expected, "flag": True}

    def test_keeps_the_details_of_a_section(self) -> None:
        census = {"integer": 3, "float": 0, "float_nodes": [], "products_asked": 2, "products_integer": 2}
        parity = {"codes_compared": 9, "mismatches": 0, "tensors": 1, "logits_equal": True, "worst": [("t", 1)]}
        data = full_report(census=census, parity=parity).to_json()
        assert data["census"] == census
        assert data["parity"] == {**parity, "worst": [["t", 1]]}


class TestFromJson:
    def test_gives_the_same_report_back(self) -> None:
        data = json.loads(json.dumps(full_report().to_json()))
        assert Report.from_json(data).to_json() == data

    def test_reads_an_exact_layer_as_infinite(self) -> None:
        assert Report.from_json(full_report().to_json()).sqnr_db[2] == ("fc", float("inf"))

    def test_refuses_unknown_keys(self) -> None:
        with pytest.raises(ConfigError, match="speed"):
            Report.from_json({**full_report().to_json(), "speed": 1})

    def test_refuses_another_format(self) -> None:
        with pytest.raises(ConfigError, match="format 99"):
            Report.from_json({**full_report().to_json(), "format": 99})


class TestRefusals:
    def test_divergence_is_refused_when_measured_on_the_calibration_set(self) -> None:
        with pytest.raises(ConfigError, match="kl_nats was measured on the calibration set"):
            Report(
                kl_nats={"student": None, "onnx": 0.5},
                calibration_set=CALIBRATION,
                measured_on={"agreement": CALIBRATION},
            )

    @pytest.mark.parametrize("section", ["accuracy", "agreement"])
    @pytest.mark.parametrize("words", [CALIBRATION, f"  {CALIBRATION.upper()} "])
    def test_quality_is_refused_when_measured_on_the_calibration_set(self, section: str, words: str) -> None:
        measured_on = {**full_content()["measured_on"], section: words}
        with pytest.raises(ConfigError, match=f"{section} was measured on the calibration set"):
            full_report(measured_on=measured_on)

    def test_calibration_set_is_no_matter_when_there_is_no_quality_figure(self) -> None:
        report = Report(calibration_set=CALIBRATION, measured_on={"accuracy": CALIBRATION})
        assert report.accuracy["onnx"] is None

    @pytest.mark.parametrize("section", ["accuracy", "agreement", "parity", "latency_ms", "sqnr_db"])
    @pytest.mark.parametrize("words", [None, "  "])
    def test_numbers_are_refused_when_they_do_not_say_on_which_images(self, section: str, words: str | None) -> None:
        measured_on = {name: said for name, said in full_content()["measured_on"].items() if name != section}
        with pytest.raises(ConfigError, match=rf"measured_on\['{section}'\]"):
            full_report(measured_on=measured_on if words is None else {**measured_on, section: words})

    def test_quality_is_refused_when_the_calibration_set_is_not_named(self) -> None:
        with pytest.raises(ConfigError, match="calibration_set must say"):
            full_report(calibration_set=" ")

    def test_measured_on_is_refused_for_an_unknown_section(self) -> None:
        with pytest.raises(ConfigError, match="no section speed"):
            Report(measured_on={"speed": HELD_OUT})

    @pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
    def test_percentage_is_refused_when_out_of_range(self, percent: float) -> None:
        with pytest.raises(ConfigError, match=r"agreement\.onnx"):
            full_report(agreement={"student": None, "onnx": percent})

    @pytest.mark.parametrize(
        ("section", "value"),
        [
            pytest.param("accuracy", {"teacher": 1.0}, id="missing_keys"),
            pytest.param("parity", {"codes_compared": 1, "mismatches": 0, "tensors": 1, "x": 1}, id="extra_key"),
            pytest.param("bits", [{"name": "q"}], id="row_of_bits"),
            pytest.param("census", {"integer": 1, "float": 1, "float_nodes": [{"name": "n"}]}, id="float_node"),
        ],
    )
    def test_section_is_refused_when_its_keys_are_others(self, section: str, value: Any) -> None:
        with pytest.raises(ConfigError, match="must have the keys"):
            full_report(**{section: value})


@pytest.mark.parametrize(
    ("section", "empty"),
    [
        ("accuracy", {"teacher": None, "student": None, "onnx": None}),
        ("parity", {"codes_compared": 0, "mismatches": 0, "tensors": 0}),
        ("sqnr_db", ()),
    ],
)
def test_has_numbers_tells_measured_from_empty(section: str, empty: Any) -> None:
    assert full_report().has_numbers(section)
    assert not full_report(**{section: empty}).has_numbers(section)


def test_has_numbers_counts_a_measured_zero() -> None:
    assert full_report(accuracy={"teacher": None, "student": None, "onnx": 0.0}).has_numbers("accuracy")
