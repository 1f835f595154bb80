"""Reading two runs from where they lie, and writing about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dfq_plugin.comparing import compare_runs, read_run
from dfq_plugin.errors import InputError
from dfq_plugin.synthetic_set import Provenance, SyntheticSet
from dfq_plugin.tests.report.samples import full_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    report = full_report(provenance={"teacher_facts": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    (folder / "report.json").write_text(json.dumps(report.to_json()))
    return folder


def add_images(folder: Path) -> None:
    origin = Provenance("intraq", {}, 0, "x", {}, "today")
    SyntheticSet(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2]), None, origin).save(folder / "synthetic.safetensors")


@pytest.mark.parametrize("name", ["", "report.json"], ids=["folder", "file"])
def test_run_is_read_from_its_folder_or_its_file_with_its_images(name: str, run: Path) -> None:
    add_images(run)
    side = read_run(run / name)
    assert side.report.accuracy["onnx"] == 70.25
    assert side.pictures is not None
    assert (len(side.pictures.images), side.pictures.mean) == (3, [0.5] * 3)


def test_run_without_its_images_is_read(run: Path) -> None:
    assert read_run(run).pictures is None
    (run / "synthetic.safetensors").write_text("cut off")
    assert read_run(run).pictures is None


def test_missing_report_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report.json does not exist; give the output folder"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"speed": 1}', '{"accuracy": 3}', '{"format": 99}', "nul\x00"])
def test_file_that_is_no_report_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match="cannot be read as a report"):
        read_run(tmp_path)


def test_page_and_card_are_written_and_nothing_else(run: Path, tmp_path: Path) -> None:
    worse = full_report(accuracy={"teacher": 75.0, "student": 70.5, "onnx": 60.0})
    (tmp_path / "worse.json").write_text(json.dumps(worse.to_json()))
    result = compare_runs(run, tmp_path / "worse.json", tmp_path / "both")
    assert result == {
        "comparison": str(tmp_path / "both" / "comparison.html"),
        "markdown": str(tmp_path / "both" / "comparison.md"),
        "differences": "5 differences: B is better in 0, worse in 1, other in 4.",
    }
    assert {entry.name for entry in (tmp_path / "both").iterdir()} == {"comparison.html", "comparison.md"}
