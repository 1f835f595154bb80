"""The examples do what they say, on less of everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_example(name: str, folder: Path, *options: str) -> str:
    environment = {**os.environ, "DFQ_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "examples" / name), *(options or ["--smoke"])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def percents(printed: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+\.\d\d) %", printed)]


def proven(printed: str, codes: int) -> bool:
    compared, different = re.search(r"codes compared: ([\d,]+), different: (\d+)", printed).groups()  # type: ignore[union-attr]
    return int(compared.replace(",", "")) >= codes and different == "0" and "integer, 0 float" in printed


def test_01_digits_end_to_end_and_06_deployment_give_the_same_accuracy(tmp_path: Path) -> None:
    printed = run_example("01_digits.py", tmp_path)
    plain, quantized = percents(printed)
    assert plain > 95
    assert quantized > 90
    assert proven(printed, 100_000)
    deployed = run_example("06_onnxruntime_only.py", tmp_path)
    assert percents(deployed) == [quantized]
    assert "other packages in use: none" in deployed


def test_06_deployment_says_what_has_to_run_before(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "06_onnxruntime_only.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run 01_digits.py first" in done.stderr


def test_02_imagenet_network_runs_from_its_config(tmp_path: Path) -> None:
    printed = run_example("02_imagenet.py", tmp_path)
    assert proven(printed, 1000)
    for name in re.findall(r"runs/02_imagenet/[\w.]+", printed):
        assert (tmp_path / name).exists()
    sizes = re.findall(r"size: ([\d,]+) bytes in float, ([\d,]+) in integers", printed)
    plain, integer = (int(number.replace(",", "")) for number in sizes[0])
    assert integer < plain / 3


def test_03_own_network_that_is_no_classifier_is_quantized(tmp_path: Path) -> None:
    printed = run_example("03_own_network.py", tmp_path)
    plain, quantized = percents(printed)
    assert plain > 95
    assert quantized > 90
    assert proven(printed, 100_000)


def test_05_provider_of_ones_own_is_listed_and_calibrates(tmp_path: Path) -> None:
    printed = run_example("05_provider.py", tmp_path)
    assert "pink_noise" in printed.splitlines()[0]
    plain, own, noise = percents(printed)
    assert plain > 95
    assert own > 60
    assert noise > 10


def test_07_one_set_calibrates_models_of_other_backends(tmp_path: Path) -> None:
    printed = run_example("07_other_backends.py", tmp_path)
    assert re.findall(r"^(\w+), 8 bits", printed, re.MULTILINE) == ["ONNX", "OpenVINO"]
    plain, *quantized = percents(printed)
    assert len(quantized) == 2
    assert all(abs(value - plain) < 3 for value in quantized)


def test_digits_prints_its_table(tmp_path: Path) -> None:
    printed = run_example("digits.py", tmp_path)
    for provider in ("noise", "zeroq", "intraq", "folder"):
        row = next(line for line in printed.splitlines() if f" {provider} " in line)
        accuracies = [float(cell) for cell in re.findall(r"\d+\.\d+", row)]
        assert len(accuracies) == 3
        assert accuracies[0] > 80  # an 8-bit student of a network trained for seconds


def test_efficientnet_demo_proves_its_file(tmp_path: Path) -> None:
    printed = run_example("efficientnet_lite0.py", tmp_path)
    report = json.loads((tmp_path / "runs/efficientnet_lite0/report.json").read_text())
    assert report["parity"]["codes_compared"] >= 10_000_000
    assert report["parity"]["mismatches"] == 0
    assert report["census"]["float"] == 0
    assert report["census"]["by_type"]["QLinearConv"] == 49
    assert report["census"]["by_type"]["QGemm"] == 1
    assert (tmp_path / "runs/efficientnet_lite0/model.onnx").exists()
    assert "mismatches" in printed
