"""A model gets its name only when it is proven, and a single stage finds what the one before it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dfq_plugin import pipeline, stages
from dfq_plugin.config import load_config
from dfq_plugin.errors import InputError, ValidationError
from dfq_plugin.pipeline import MODEL, REJECTED, proven
from dfq_plugin.report import write_report
from dfq_plugin.stages import STAGES, Job
from dfq_plugin.synthetic_set import Provenance, SyntheticSet
from dfq_plugin.tests.report.samples import full_report


def held(folder: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


def fail(folder: Path, error: BaseException | type[BaseException], written: str | None = None) -> None:
    """Export something, unless it is None, and then fail."""
    with proven(folder) as candidate:
        if written is not None:
            candidate.write_text(written)
        raise error


class TestProven:
    def test_file_gets_its_name_when_the_block_ends_well(self, tmp_path: Path) -> None:
        (tmp_path / REJECTED).write_text("of an earlier run")
        with proven(tmp_path) as candidate:
            candidate.write_text("new")
            assert not (tmp_path / MODEL).exists()
        assert held(tmp_path) == {MODEL: "new"}

    @pytest.mark.parametrize("before", [False, True], ids=["first run", "after a good run"])
    def test_file_that_fails_validation_is_kept_as_rejected_and_no_model_is_left(
        self, before: bool, tmp_path: Path
    ) -> None:
        if before:
            (tmp_path / MODEL).write_text("of an earlier run")
        with pytest.raises(ValidationError) as caught:
            fail(tmp_path, ValidationError(f"{tmp_path / '.model.candidate.onnx'}: a code differs."), "bad")
        assert str(caught.value) == f"{tmp_path / REJECTED}: a code differs."
        assert held(tmp_path) == {REJECTED: "bad"}

    def test_failure_before_there_is_a_file_says_just_that(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match=r"^nothing to load$"):
            fail(tmp_path, ValidationError("nothing to load"))
        assert held(tmp_path) == {}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, InputError])
    def test_anything_else_leaves_the_folder_as_it_was(self, error: type[BaseException], tmp_path: Path) -> None:
        (tmp_path / MODEL).write_text("of an earlier run")
        with pytest.raises(error):
            fail(tmp_path, error, "half")
        assert held(tmp_path) == {MODEL: "of an earlier run"}


def job(folder: Path, **more: Any) -> Job:
    content = {
        "model": {"source": "python:dfq_plugin.testing:tiny_teacher"},
        "input_shape": [3, 8, 8],
        "calibration": {"provider": "noise", "num_samples": 4, "cache": False},
        "output_dir": str(folder),
        **more,
    }
    return Job(load_config(content))


class TestStages:
    def test_output_folder_that_cannot_be_written_is_refused_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written to"):
            job(tmp_path / "file" / "out")

    def test_generate_writes_the_set(self, tmp_path: Path) -> None:
        result = STAGES["generate"](job(tmp_path))
        path = tmp_path / pipeline.SYNTHETIC
        assert result == {"synthetic": str(path), "images": 4, "provider": "noise"}
        assert SyntheticSet.load(path).images.shape == (4, 3, 8, 8)

    def test_generate_replaces_an_older_set(self, tmp_path: Path) -> None:
        STAGES["generate"](job(tmp_path))
        STAGES["generate"](job(tmp_path, calibration={"provider": "noise", "num_samples": 2, "cache": False}))
        assert len(SyntheticSet.load(tmp_path / pipeline.SYNTHETIC)) == 2

    def test_set_in_the_folder_is_used_and_not_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        origin = Provenance("mine", {}, 0, "x", {}, "today")
        SyntheticSet(torch.ones(3, 3, 8, 8), None, None, origin).save(tmp_path / pipeline.SYNTHETIC)
        monkeypatch.setattr(stages, "synthesize", lambda *_: pytest.fail("made a set again"))
        assert job(tmp_path).synthetic.provenance.provider == "mine"

    def test_set_is_made_and_kept_when_there_is_none(self, tmp_path: Path) -> None:
        this = job(tmp_path)
        assert len(this.synthetic) == 4
        assert (tmp_path / pipeline.SYNTHETIC).exists()
        assert this.synthetic is this.synthetic

    @pytest.mark.parametrize(
        ("verb", "missing", "before"),
        [("validate", "model.onnx", "dfq export"), ("report", "report.json", "dfq run")],
    )
    def test_stage_says_which_one_to_run_first(self, verb: str, missing: str, before: str, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            STAGES[verb](job(tmp_path))
        assert str(caught.value).startswith(f"{tmp_path / missing} does not exist; run `{before}`")
        assert held(tmp_path) == {}

    def test_report_is_written_again_from_its_numbers(self, tmp_path: Path) -> None:
        write_report(full_report(), tmp_path)
        numbers = (tmp_path / "report.json").read_text()
        for name in ("report.html", "report.md"):
            (tmp_path / name).unlink()
        result = STAGES["report"](job(tmp_path))
        assert result == {"report": str(tmp_path / "report.html")}
        assert (tmp_path / "report.html").stat().st_size > 1000
        assert (tmp_path / "report.md").exists()
        assert json.loads((tmp_path / "report.json").read_text()) == json.loads(numbers)
