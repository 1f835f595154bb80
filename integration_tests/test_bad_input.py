"""What cannot work is refused with one message and the right exit code, and no half-written file is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from dfq_plugin.cli import app
from integration_tests.networks import plain, sequential

BEFORE_ANY_WORK = {"config.json"}
FROM_SYNTHETIC_ON = {*BEFORE_ANY_WORK, "synthetic.safetensors"}


def refuse(job: dict[str, Any], folder: Path, *arguments: str, code: int = 2, left: set[str] | None = None) -> str:
    """Run a job that cannot work; give its message.

    Args:
        job: the content of the config.
        folder: where the config is written.
        arguments: of ``dfq run``, behind the config.
        code: the exit code it has to end with.
        left: names in the output folder afterwards; None when there is to be no such folder.
    """
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    result = CliRunner().invoke(app, ["run", str(path), "--json", *arguments])
    messages = [line for line in result.stderr.splitlines() if line.startswith("dfq: ")]
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(messages) == 1, result.stderr
    assert "Traceback" not in result.stderr
    output = Path(job["output_dir"])
    assert output.is_dir() == (left is not None)
    if left is not None:
        assert {entry.name for entry in output.rglob("*")} == left
    return result.stderr[result.stderr.index("dfq: ") :]


def test_unknown_config_key(job: dict[str, Any], tmp_path: Path) -> None:
    job["quantize"]["weight_bit"] = 4
    message = refuse(job, tmp_path)
    assert "job.json: /quantize/weight_bit: unknown key" in message
    assert "weight_bits" in message


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits: int, job: dict[str, Any], tmp_path: Path) -> None:
    job["quantize"] = {"weight_bits": bits}
    message = refuse(job, tmp_path)
    assert f"/quantize/weight_bits: got {bits}, expected" in message
    assert "2" in message
    assert "8" in message


def test_no_images_at_all(job: dict[str, Any], tmp_path: Path) -> None:
    job["calibration"]["num_samples"] = 0
    assert "/calibration/num_samples: got 0, expected" in refuse(job, tmp_path)


def test_unknown_provider(job: dict[str, Any], tmp_path: Path) -> None:
    job["calibration"]["provider"] = "intrak"
    message = refuse(job, tmp_path, left=BEFORE_ANY_WORK)
    assert "intrak" in message
    assert "intraq" in message


def test_unknown_setting_of_a_provider(job: dict[str, Any], tmp_path: Path) -> None:
    job["calibration"] |= {"provider": "zeroq", "params": {"step": 3}}
    message = refuse(job, tmp_path, left=BEFORE_ANY_WORK)
    assert "/calibration/params/step" in message
    assert "steps" in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_missing_weights_file(suffix: str, job: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / f"nowhere{suffix}"
    job["model"]["weights"] = str(weights)
    assert str(weights) in refuse(job, tmp_path, left=BEFORE_ANY_WORK)


def test_weights_that_do_not_fit(job: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "plain.safetensors"
    save_file(plain().state_dict(), weights)
    job["model"]["weights"] = str(weights)
    message = refuse(job, tmp_path, left=BEFORE_ANY_WORK)
    assert str(weights) in message
    assert "conv1" in message


def test_weights_file_that_is_cut_off(job: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "cut.safetensors"
    save_file(sequential().state_dict(), weights)
    weights.write_bytes(weights.read_bytes()[:200])
    job["model"]["weights"] = str(weights)
    assert str(weights) in refuse(job, tmp_path, left=BEFORE_ANY_WORK)


@pytest.mark.parametrize("shape", [[1, 16, 16], [3, 1, 1]])
def test_shape_that_the_network_refuses(shape: list[int], job: dict[str, Any], tmp_path: Path) -> None:
    job["input_shape"] = shape
    assert f"refuses an image of shape {tuple(shape)} (C, H, W)" in refuse(job, tmp_path, left=BEFORE_ANY_WORK)


def test_source_that_does_not_exist(job: dict[str, Any], tmp_path: Path) -> None:
    job["model"]["source"] = "python:integration_tests.networks:sequentiel"
    assert "Did you mean 'sequential'?" in refuse(job, tmp_path, left=BEFORE_ANY_WORK)


@pytest.mark.parametrize("provider", ["zeroq", "intraq"])
def test_network_without_batchnorm(provider: str, job: dict[str, Any], tmp_path: Path) -> None:
    job["model"]["source"] = "python:integration_tests.networks:bare"
    job["calibration"] = {"provider": provider, "num_samples": 4}
    message = refuse(job, tmp_path, code=3, left=BEFORE_ANY_WORK)
    assert "BatchNorm" in message


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_folder_that_cannot_be_written(place: str, job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    job["output_dir"] = str(tmp_path / place)
    message = refuse(job, tmp_path)
    assert f"The output folder {tmp_path / place} cannot be written to" in message
    assert "--output" in message
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("use", ["calibration", "validation"])
def test_folder_with_a_broken_image(use: str, job: dict[str, Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(3):
        Image.effect_noise((16, 16), sigma=50).convert("RGB").save(photos / f"{index}.png")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    job["model"] |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    if use == "calibration":
        job["calibration"] = {"provider": "folder", "num_samples": 3, "params": {"path": str(photos)}}
        message = refuse(job, tmp_path, left=BEFORE_ANY_WORK)
    else:
        job["validate"]["images"] = f"folder:{photos}"
        message = refuse(job, tmp_path, left=FROM_SYNTHETIC_ON)  # before hours of work, not after
    assert f"1 of 3 images cannot be read: {photos / '1.png'}" in message
    assert "Repair or remove" in message


def test_images_without_the_normalisation_of_the_network(job: dict[str, Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos.safetensors"
    save_file({"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, photos)
    job["validate"]["images"] = f"safetensors:{photos}"
    assert "set model.mean and model.std" in refuse(job, tmp_path, left=FROM_SYNTHETIC_ON)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('quantize.bit_overrides={"nothing": 4}', "'nothing' matches no quantizer"),
        ('quantize.ignored_scopes.names=["nothing"]', "nothing"),
    ],
)
def test_scope_that_matches_nothing(setting: str, message: str, job: dict[str, Any], tmp_path: Path) -> None:
    assert message in refuse(job, tmp_path, "--set", setting, left=FROM_SYNTHETIC_ON)


def test_stage_without_the_one_before_it(job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    for verb, missing in (("finetune", "quantize"), ("export", "quantize"), ("validate", "export"), ("report", "run")):
        result = CliRunner().invoke(app, [verb, str(path)])
        assert result.exit_code == 2, result.output
        assert f"`dfq {missing}`" in result.stderr
