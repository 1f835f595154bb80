"""A file that fails validation, or whose validation is cut off: what is left, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

import dfq_plugin as dfq
from dfq_plugin.cli import app
from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.products import Accumulator

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture
def wrong_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Accumulator.requantize
    monkeypatch.setattr(Accumulator, "requantize", lambda self, grid: exact(self, grid) ^ 1)


@pytest.mark.usefixtures("wrong_arithmetic")
class TestFailingValidation:
    def test_rejected_file_is_kept_under_another_name(self, job: dict[str, Any], tmp_path: Path) -> None:
        output = tmp_path / "out"
        output.mkdir()
        (output / "model.onnx").write_text("of an earlier run")
        with pytest.raises(ValidationError, match=rf"{output / 'model.rejected.onnx'}: onnxruntime and the integer"):
            dfq.run(job)
        assert {entry.name for entry in output.iterdir()} == {
            "config.json",
            "synthetic.safetensors",
            "student",
            "model.rejected.onnx",
        }
        onnx.checker.check_model(str(output / "model.rejected.onnx"))

    def test_exit_code_is_4(self, job: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(job))
        for verb in ("generate", "quantize", "export"):
            assert CliRunner().invoke(app, [verb, str(path)]).exit_code == 0
        result = CliRunner().invoke(app, ["validate", str(path)])
        assert result.exit_code == 4
        assert "model.rejected.onnx: onnxruntime and the integer reference differ" in result.stderr
        assert not (tmp_path / "out" / "model.onnx").exists()
        assert (tmp_path / "out" / "model.rejected.onnx").exists()


def test_validate_that_is_interrupted_keeps_the_model(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "job.json", tmp_path / "out" / "model.onnx"
    path.write_text(json.dumps(job))
    for verb in ("quantize", "export"):
        assert CliRunner().invoke(app, [verb, str(path)]).exit_code == 0
    before = model.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfq_plugin.validation.validate", interrupt)
    assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 130
    assert model.read_bytes() == before
    assert {entry.name for entry in model.parent.iterdir()} == {"model.onnx", "student", "synthetic.safetensors"}
