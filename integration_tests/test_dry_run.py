"""A dry run does nothing, and what it foretells comes true within a factor of two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
# Seconds of the processor, so that whatever else the machine does is not counted.
TELL = """
import json, sys, time
time.perf_counter = time.process_time
from dfq_plugin.config import load_config
from dfq_plugin.estimate import estimate
told = estimate(load_config(sys.argv[1])).to_json()
print(json.dumps(told))
"""
DO = """
import json, sys, time
time.perf_counter = time.process_time
from dfq_plugin import run
report = run(sys.argv[1])
print(json.dumps({"timings_s": report.timings_s, "peak_memory_bytes": report.peak_memory_bytes}))
"""


def ask(script: str, path: Path, cache: Path) -> dict[str, Any]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DFQ_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.alone
@pytest.mark.usefixtures("kernels")
def test_estimate_is_right_within_a_factor_of_two(job: dict[str, Any], tmp_path: Path) -> None:
    job["calibration"] = {"provider": "zeroq", "num_samples": 48, "params": {"steps": 100, "batch_size": 32}}
    job["finetune"] = {"epochs": 12, "batch_size": 16}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    told = ask(TELL, path, tmp_path / "cache")
    assert not Path(job["output_dir"]).exists()
    assert not (tmp_path / "cache").exists()
    assert not any(told["writes"].values())
    done = ask(DO, path, tmp_path / "cache")
    stages = {stage["stage"]: stage["seconds"] for stage in told["stages"]}
    assert list(stages) == list(done["timings_s"])
    assert 0.5 < told["seconds"] / sum(done["timings_s"].values()) < 2
    for stage in ("synthesize", "finetune"):  # where nearly all the time of a real job goes
        assert 0.4 < stages[stage] / done["timings_s"][stage] < 2.5
    assert 0.5 < told["peak_memory_bytes"] / done["peak_memory_bytes"] < 2


@pytest.mark.alone
@pytest.mark.usefixtures("kernels")
def test_rounding_by_moments_is_foretold_with_bits_to_allocate(job: dict[str, Any], tmp_path: Path) -> None:
    job["calibration"] = {"provider": "noise", "num_samples": 1500}
    allocation = {"average_weight_bits": 4.5, "num_images": 8, "widths": [3, 5]}
    job["quantize"] = {"weight_bits": 4, "rounding": "gptq", "allocation": allocation}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    (told,) = (stage for stage in ask(TELL, path, tmp_path)["stages"] if stage["stage"] == "quantize")
    assert 0.4 < told["seconds"] / ask(DO, path, tmp_path)["timings_s"]["quantize"] < 2.5
