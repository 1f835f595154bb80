"""Ctrl-C ends with exit code 130, and the same command goes on from what was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dfq_plugin.config import load_config
from dfq_plugin.set_cache import synthesize
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import load_teacher

ROOT = Path(__file__).parent.parent
BATCH = "batch_*.safetensors"


def start(path: Path, cache: Path) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DFQ_CACHE_DIR": str(cache)}
    # Tests that run in the background of a shell ignore Ctrl-C, and so would whatever they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "dfq_plugin", "generate", str(path), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_batch(process: subprocess.Popen[str], cache: Path, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(cache.rglob(BATCH)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "No batch was finished in time."
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="a console sends Ctrl-C there, not a process")
def test_interrupted_generation_goes_on_where_it_stopped(job: dict[str, Any], tmp_path: Path) -> None:
    params = {"steps": 120, "batch_size": 4}  # seconds between the first batch and the last, also on a busy machine
    job["calibration"] = {"provider": "zeroq", "num_samples": 40, "params": params, "seed": 5}
    path, cache, output = tmp_path / "job.json", tmp_path / "cache", Path(job["output_dir"])
    path.write_text(json.dumps(job))
    process = start(path, cache)
    try:
        wait_for_batch(process, cache)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert printed == ""
    assert said.rstrip().endswith("are kept; the same command goes on from them.")
    assert "Traceback" not in said
    assert [*output.iterdir()] == []
    kept = {file.name: file.stat().st_mtime_ns for file in cache.rglob(BATCH)}
    assert 0 < len(kept) < 10

    again = start(path, cache)
    printed, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert json.loads(printed)["images"] == 40
    made = SyntheticSet.load(output / "synthetic.safetensors")
    config = load_config(path, ["calibration.cache=false"])
    unbroken = synthesize(config.calibration, load_teacher(config.model, config.input_shape))
    torch.testing.assert_close(made.images, unbroken.images)
