"""The smallest whole job, what its results are known by, and how to run it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.tensor_files import read_tensors

ROOT = Path(__file__).parent.parent
FILES = {
    "config.json",
    "synthetic.safetensors",
    "student/bit_plan.json",
    "student/student.safetensors",
    "model.onnx",
    "report.json",
    "report.md",
    "report.html",
}


def tiny_job(output: Path, *, seed: int = 0, epochs: int = 1, **more: Any) -> dict[str, Any]:
    """A whole job on the smallest network: two steps a batch of images, a little fine-tuning, export and proof."""
    return {
        "model": {"source": "python:integration_tests.networks:sequential"},
        "input_shape": [3, 16, 16],
        "calibration": {"provider": "zeroq", "num_samples": 4, "seed": seed, "params": {"steps": 2, "batch_size": 2}},
        "quantize": {"weight_bits": 4, "activation_bits": 4},
        "finetune": {"epochs": epochs, "batch_size": 2},
        "validate": {"held_out": 2, "latency_runs": 0, "parity_codes": 1000},
        "output_dir": str(output),
        **more,
    }


def command(config: Path, *more: str, verb: str = "run") -> list[str]:
    """The ``dfq`` command of this very checkout."""
    return [sys.executable, "-c", "from dfq_plugin.cli import main; main()", verb, str(config), *more]


def environment(cache: Path, **more: str) -> dict[str, str]:
    """What such a command needs around it."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DFQ_CACHE_DIR": str(cache), **more}


def run_command(config: Path, cache: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the job to its end."""
    return subprocess.run(
        command(config, *more),
        cwd=ROOT,
        env=environment(cache, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


def files_in(folder: Path) -> set[str]:
    """The names of all files, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fingerprint(path: Path) -> str:
    """What a finished file is known by, dates and times left out; raises when it is not whole."""
    if path.suffix == ".safetensors":
        tensors, origin = read_tensors(path, own=True)
        told = [origin.get("format", "")]
        if path.name == "synthetic.safetensors":
            told.append(str(SyntheticSet.load(path).provenance.seed))
        return _digest(*told, *(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))
    if path.suffix == ".onnx":
        model = onnx.load(path)
        weights = (numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer)
        return _digest(model.graph.SerializeToString(), *weights)
    text = path.read_text()
    if path.name == "config.json":
        return _digest(text)
    if path.name == "report.json":
        return _digest(json.dumps(json.loads(text)["config"]))
    assert path.suffix != ".html" or text.endswith("</html>"), f"{path} is cut off"
    return _digest(text)


def fingerprints(folder: Path) -> dict[str, str]:
    """Those of all results in an output folder that do not tell of times."""
    return {name: fingerprint(folder / name) for name in FILES if Path(name).suffix not in {".md", ".html"}}


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
