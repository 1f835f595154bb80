"""The examples do what they say, on less of everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_example(name: str, folder: Path) -> str:
    environment = {**os.environ, "DFQ_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "examples" / name), "--smoke"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
