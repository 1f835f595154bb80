"""The whole job: from a config to every file of the output folder, in one go and verb by verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from typer.testing import CliRunner

import dfq_plugin as dfq
from dfq_plugin.cli import app
from dfq_plugin.config import load_config
from dfq_plugin.report import Report
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.validation.accuracy import onnx_logits, torch_logits
from dfq_plugin.validation.runtime import open_session
from integration_tests.networks import SHAPE, images, sequential

pytestmark = pytest.mark.usefixtures("kernels")

FILES = {
    "config.json",
    "synthetic.safetensors",
    "student",
    "model.onnx",
    "report.html",
    "report.json",
    "report.md",
}
ROOT = Path(__file__).parent.parent


def initializers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def same_initializers(left: Path, right: Path) -> bool:
    first, second = initializers(left), initializers(right)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def with_output(job: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    return {**job, "output_dir": str(folder), **more}


def labelled_images(folder: Path, count: int) -> Path:
    pixels = torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    path = folder / "photos.safetensors"
    save_file({"images": pixels, "labels": torch.arange(count) % 10}, path)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> tuple[Report, Path]:  # noqa: ARG001 - built first
    folder = tmp_path_factory.mktemp("whole")
    report = dfq.run(
        {
            "model": {
                "source": "python:integration_tests.networks:mobile",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
            },
            "input_info": {"sample_size": [1, *SHAPE]},
            "compression": {"algorithm": "quantization", "weights": {"bits": 4}, "activations": {"bits": 4}},
            "calibration": {"provider": "zeroq", "num_samples": 16, "params": {"steps": 5}},
            "finetune": {"epochs": 2, "batch_size": 8},
            "export": {"packing": "int4"},
            "validate": {
                "images": f"safetensors:{labelled_images(folder, 40)}",
                "latency_runs": 3,
                "parity_codes": 50_000,
                "baselines": ["noise"],
            },
            "tracking": {"tensorboard": str(folder / "board")},
            "output_dir": str(folder / "out"),
        }
    )
    return report, folder / "out"


class TestWholeJob:
    def test_output_folder_holds_every_file_and_nothing_else(self, done: tuple[Report, Path]) -> None:
        _, output = done
        assert {entry.name for entry in output.iterdir()} == FILES
        student = {entry.name for entry in (output / "student").iterdir()}
        assert student == {"bit_plan.json", "student.safetensors"}

    def test_report_file_has_the_promised_keys(self, done: tuple[Report, Path]) -> None:
        report, output = done
        written = json.loads((output / "report.json").read_text())
        assert written == report.to_json()
        assert set(written["accuracy"]) == {"teacher", "student", "onnx"}
        assert set(written["agreement"]) == {"student", "onnx"}
        assert {"integer", "float", "float_nodes"} <= set(written["census"])
        assert {"codes_compared", "mismatches"} <= set(written["parity"])
        assert set(written["latency_ms"]) == set(written["size_bytes"]) == {"float", "integer"}
        assert {"name", "kind", "layer", "requested", "applied", "reason"} == set(written["bits"][0])
        assert list(written["timings_s"]) == [
            "teacher", "synthesize", "quantize", "finetune", "export", "validate"
        ]  # fmt: skip
        assert {"provider", "settings", "seed", "teacher", "versions", "date"} <= set(written["provenance"])

    def test_numbers_are_plausible(self, done: tuple[Report, Path]) -> None:
        report, output = done
        assert report.census["float"] == 0
        assert report.census["products_integer"] == report.census["products_asked"] == 6
        assert (report.parity["mismatches"], report.parity["logits_equal"]) == (0, True)
        assert report.parity["codes_compared"] >= 50_000
        assert report.size_bytes["integer"] == (output / "model.onnx").stat().st_size
        assert all(value is not None and 0 <= value <= 100 for value in report.accuracy.values())
        assert report.agreement["onnx"] is not None
        assert report.agreement["onnx"] > 30  # of 10 classes
        assert all(value is not None and value > 0 for value in report.latency_ms.values())
        assert len(report.losses["distillation"]) == 2
        assert all(seconds > 0 for seconds in report.timings_s.values())
        assert report.peak_memory_bytes is None or report.peak_memory_bytes > 2**20

    def test_quality_was_measured_on_the_named_images(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        assert report.measured_on["accuracy"].startswith("40 labelled images of safetensors:")
        assert report.measured_on["accuracy"] == report.measured_on["agreement"]
        assert report.calibration_set == "16 calibration images (zeroq, seed 0)"
        assert report.measured_on["parity"] == f"{report.parity['images']} of {report.calibration_set}"

    def test_bits_are_as_the_config_says(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        weights = [row for row in report.bits if row["kind"] == "weight"]
        assert [row["applied"] for row in weights] == [8, 4, 4, 4, 4, 8]
        assert {row["requested"] for row in weights} == {4}

    def test_written_config_describes_the_same_job(self, done: tuple[Report, Path]) -> None:
        report, output = done
        again = load_config(output / "config.json")
        assert again.resolved() == report.config
        assert again.quantize.weight_bits == 4

    def test_file_says_where_it_comes_from(self, done: tuple[Report, Path]) -> None:
        report, output = done
        properties = {entry.key: entry.value for entry in onnx.load(output / "model.onnx").metadata_props}
        assert properties["dfq.provider"] == "zeroq"
        assert properties["dfq.teacher"] == report.provenance["teacher"]
        assert properties["dfq.bits"].startswith("activation 4, activation 8, weight 4, weight 8")

    def test_written_student_answers_as_the_file_does(self, done: tuple[Report, Path]) -> None:
        _, output = done
        from integration_tests.networks import mobile  # noqa: PLC0415 - the factory that the config names

        student = dfq.load_student(output / "student", mobile())
        tensor = images(100)
        file = onnx_logits(open_session(output / "model.onnx"), tensor)
        assert (torch_logits(student, tensor).argmax(1) == file.argmax(1)).double().mean() >= 0.99

    def test_html_report_shows_the_proof(self, done: tuple[Report, Path]) -> None:
        _, output = done
        text = (output / "report.html").read_text()
        assert "Deployable" in text
        assert "All 6 quantized layers run on integer kernels" in text
        assert text.count("<img") >= 5  # SQNR, losses of the images, BatchNorm, fine-tuning, and the contact sheet

    def test_baseline_was_made_with_the_same_settings(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        noise = report.baselines["noise"]
        assert noise["images"] == 16
        assert noise["agreement"] is not None
        assert noise["agreement"] > 30  # of 10 classes
        assert noise["accuracy"] is not None
        assert 0 < noise["seconds"] < report.timings_s["validate"]

    def test_layers_curves_and_statistics_are_told(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        assert [row["weight_bits"] for row in report.layers] == [8, 4, 4, 4, 4, 8]
        assert all(row["input_bits"] and row["input_sqnr_db"] for row in report.layers)
        (curves,) = report.synthesis_curves
        assert (curves["provider"], list(curves["at"])) == ("zeroq", [1, 2, 3, 4, 5])
        assert set(curves["values"]) == {"input", "batchnorm"}
        layers = list(report.provenance["teacher_facts"]["batchnorm_layers"])
        assert [row["layer"] for row in report.batchnorm_match] == layers
        assert all(row["real"] is not None and row["real"] > 0 for row in report.batchnorm_match)

    def test_run_was_tracked(self, done: tuple[Report, Path]) -> None:
        report, output = done
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        found = accumulator.EventAccumulator(str(output.parent / "board" / "out"))
        found.Reload()
        losses = [event.value for event in found.Scalars("finetune/distillation")]
        assert losses == pytest.approx(report.losses["distillation"])
        assert found.Scalars("final/accuracy.onnx")[0].value == pytest.approx(report.accuracy["onnx"])


class TestSameJobTwice:
    def test_second_run_takes_the_set_from_the_cache_and_gives_the_same_file(
        self, job: dict[str, Any], tmp_path: Path
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        job["calibration"]["seed"] = 77
        dfq.run(with_output(job, first))
        dfq.run(with_output(job, second))
        sets = [SyntheticSet.load(folder / "synthetic.safetensors") for folder in (first, second)]
        assert sets[0].provenance == sets[1].provenance  # the date included: it was not made again
        assert (first / "synthetic.safetensors").read_bytes() == (second / "synthetic.safetensors").read_bytes()
        assert (first / "model.onnx").read_bytes() == (second / "model.onnx").read_bytes()

    def test_without_the_cache_images_and_codes_are_the_same(self, job: dict[str, Any], tmp_path: Path) -> None:
        folders = tmp_path / "first", tmp_path / "second"
        job["finetune"] = {"epochs": 1, "batch_size": 4}
        job["calibration"] = {"provider": "zeroq", "num_samples": 8, "params": {"steps": 3}, "seed": 78}
        path = tmp_path / "job.json"
        path.write_text(json.dumps(job))
        cached = set(Path(os.environ["DFQ_CACHE_DIR"]).rglob("*"))
        for folder in folders:
            result = CliRunner().invoke(app, ["run", str(path), "--no-cache", "--output", str(folder)])
            assert result.exit_code == 0, result.output
        sets = [SyntheticSet.load(folder / "synthetic.safetensors") for folder in folders]
        assert torch.equal(sets[0].images, sets[1].images)
        assert same_initializers(*(folder / "model.onnx" for folder in folders))
        assert set(Path(os.environ["DFQ_CACHE_DIR"]).rglob("*")) == cached

    def test_another_seed_gives_another_file(self, job: dict[str, Any], tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        dfq.run(with_output(job, first))
        dfq.run(with_output(job, second), ["calibration.seed=79"])
        assert not same_initializers(first / "model.onnx", second / "model.onnx")


def test_verbs_in_order_do_what_run_does(job: dict[str, Any], tmp_path: Path) -> None:
    job["finetune"] = {"epochs": 1, "batch_size": 8}
    path, output = tmp_path / "job.json", tmp_path / "out"
    path.write_text(json.dumps(job))

    def dfq_command(verb: str, *more: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [verb, str(path), "--json", *more])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        return found

    assert dfq_command("generate") == {
        "synthetic": str(output / "synthetic.safetensors"),
        "images": 16,
        "provider": "noise",
    }
    assert dfq_command("quantize")["quantizers"] == 7
    before = (output / "student" / "student.safetensors").read_bytes()
    assert len(dfq_command("finetune")["losses"]) == 1
    assert (output / "student" / "student.safetensors").read_bytes() != before
    exported = dfq_command("export")
    assert exported == {"model": str(output / "model.onnx"), "size_bytes": (output / "model.onnx").stat().st_size}
    validated = dfq_command("validate")
    assert validated["model"] == str(output / "model.onnx")
    assert (validated["census"]["float"], validated["parity"]["mismatches"]) == (0, 0)
    step_by_step = initializers(output / "model.onnx")
    dfq_command("run")
    assert {entry.name for entry in output.iterdir()} == FILES
    at_once = initializers(output / "model.onnx")
    assert all(np.array_equal(step_by_step[name], at_once[name]) for name in at_once)
    (output / "report.html").unlink()
    assert dfq_command("report") == {"report": str(output / "report.html")}
    assert (output / "report.html").exists()


def test_calibration_on_real_images_does_not_measure_quality_on_them(job: dict[str, Any], tmp_path: Path) -> None:
    photos = labelled_images(tmp_path, 16)
    job["model"] |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    job["calibration"] = {"provider": "folder", "num_samples": 16, "params": {"path": str(photos)}}
    report = dfq.run(job)
    assert set(report.agreement.values()) == {None}
    assert any("Quality was not measured" in note for note in report.notes)


def test_a_real_process_prints_json_and_nothing_else(job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, "-c", "from dfq_plugin.cli import main; main()", "run", str(path), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parity"]["mismatches"] == 0
    assert report["census"]["float"] == 0
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == FILES
    tensor = images(20)
    agreement = torch_logits(sequential().eval(), tensor).argmax(1) == onnx_logits(
        open_session(tmp_path / "out" / "model.onnx"), tensor
    ).argmax(1)
    assert agreement.double().mean() > 0.5
