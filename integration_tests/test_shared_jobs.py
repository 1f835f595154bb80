"""Jobs of two processes, started by a launcher, connected by accelerate over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dfq_plugin.config import load_config
from dfq_plugin.errors import ConfigError
from dfq_plugin.stages import run_stage
from dfq_plugin.tensor_files import read_tensors
from integration_tests.tiny_run import ROOT, command, environment, fingerprint, tiny_job

IMAGES = {"provider": "intraq", "num_samples": 20, "params": {"steps": 20, "batch_size": 4, "parallel_batches": 2}}
# Plain gradient descent moves in proportion to the gradients, so a student tells how they were averaged; Adam divides
# each by its own size, and makes a difference in the last bit of a small one as large as any. Batches of three are
# shared unequally.
LEARNING = {"epochs": 1, "batch_size": 3, "optimizer": "sgd", "lr": 0.01}
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}


def write(folder: Path, name: str, **more: Any) -> Path:
    job = tiny_job(folder / name, **{"calibration": IMAGES, "finetune": LEARNING, **more})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(job))
    return path


def launch(config: Path, cache: Path, *, verb: str = "run") -> subprocess.Popen[str]:
    asked = [sys.executable, "-m", *LAUNCHERS["torchrun"], "-m", "dfq_plugin", verb, str(config)]
    around = environment(cache, OMP_NUM_THREADS="1")
    pipe = subprocess.PIPE
    return subprocess.Popen(asked, cwd=ROOT, env=around, stdout=pipe, stderr=pipe, text=True)


def alone(config: Path, cache: Path, *, verb: str = "run") -> None:
    around = environment(cache, OMP_NUM_THREADS="1")
    done = subprocess.run(command(config, verb=verb), cwd=ROOT, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def finish(job: subprocess.Popen[str]) -> tuple[str, str]:
    printed, told = job.communicate(timeout=120)
    assert job.returncode == 0, told
    return printed, told


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the job."""
    folder = tmp_path_factory.mktemp("single")
    alone(write(folder, "out"), folder / "cache")
    return folder / "out"


def test_two_processes_make_the_same_images_and_the_same_student(single: Path, tmp_path: Path) -> None:
    printed, _ = finish(launch(write(tmp_path, "out"), tmp_path / "cache"))
    assert printed.count("0 mismatches") == 1, "the main process alone tells the result"
    assert fingerprint(tmp_path / "out" / "synthetic.safetensors") == fingerprint(single / "synthetic.safetensors")
    folders = single, tmp_path / "out"
    students = [read_tensors(folder / "student" / "student.safetensors", own=True)[0] for folder in folders]
    assert students[0].keys() == students[1].keys()
    for name, expected in students[0].items():
        torch.testing.assert_close(students[1][name], expected, rtol=0, atol=1e-5, msg=name)


SETS = """
import sys
import dfq_plugin as dfq
from dfq_plugin.processes import joined
from dfq_plugin.testing import tiny_teacher

optimised = {"steps": 4, "batch_size": 4}
with joined() as crew, crew.sharing():
    for provider in sys.argv[2:]:
        asked = {"input_shape": (3, 8, 8), "num_samples": 10, "params": {} if provider == "fractal" else optimised}
        made = dfq.generate(tiny_teacher(), provider=provider, cache=provider != "zeroq", **asked)
        made.save(f"{sys.argv[1]}/{provider}_{crew.rank}_of_{crew.count}.safetensors")
"""


def test_every_process_has_the_set_that_one_makes(tmp_path: Path) -> None:
    script, methods = tmp_path / "sets.py", ("zeroq", "genie", "deepinversion", "gdfq", "fractal")
    script.write_text(SETS)
    around = environment(tmp_path / "cache", OMP_NUM_THREADS="1")
    for start in ([sys.executable], [sys.executable, "-m", *LAUNCHERS["accelerate"]]):
        around["DFQ_CACHE_DIR"] += "_"
        done = subprocess.run(
            [*start, script, tmp_path, *methods], env=around, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for method in methods:
        names = [f"{method}_{who}.safetensors" for who in ("0_of_1", "0_of_2", "1_of_2")]
        assert len({fingerprint(tmp_path / name) for name in names}) == 1, method


def test_a_killed_worker_ends_the_job_with_a_message_and_the_same_command_goes_on(tmp_path: Path) -> None:
    slow = {**IMAGES, "params": {**IMAGES["params"], "steps": 200}}  # type: ignore[dict-item]
    config, cache = write(tmp_path, "out", calibration=slow), tmp_path / "cache"
    job = launch(config, cache, verb="generate")
    kept = _wait_for_batches(cache, job)
    _workers(job)[-1].send_signal(signal.SIGKILL)
    _, told = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "another one of the job has ended" in told or "Another process of this job has ended" in told, told
    assert "run the same command again" in told
    assert not (tmp_path / "out" / "synthetic.safetensors").exists()
    assert kept <= {path.name for path in cache.rglob("batch_*.safetensors")}
    finish(launch(config, cache, verb="generate"))
    alone(write(tmp_path, "one", calibration=slow), tmp_path / "cache_one", verb="generate")
    one, two = (fingerprint(tmp_path / name / "synthetic.safetensors") for name in ("one", "out"))
    assert one == two


def test_stages_of_one_process_refuse_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = load_config(tiny_job(tmp_path / "out"))
    with pytest.raises(ConfigError, match="`dfq quantize` is the work of one process, and 2 were started"):
        run_stage("quantize", config)
    assert not (tmp_path / "out").exists()


def _wait_for_batches(cache: Path, job: subprocess.Popen[str]) -> set[str]:
    """Wait until some batches are finished, and give their names."""
    until = time.monotonic() + 120
    while time.monotonic() < until and job.poll() is None:
        found = {path.name for path in cache.rglob("batch_*.safetensors")}
        if len(found) >= 2:
            return found
        time.sleep(0.02)
    job.kill()
    pytest.fail(f"no batch was finished: {job.communicate()[1]}")


def _workers(job: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that the launcher has started, in the order of their numbers."""
    found = [child for child in psutil.Process(job.pid).children(recursive=True) if "dfq_plugin" in child.cmdline()]
    return sorted(found, key=lambda child: int(child.environ().get("RANK", os.environ.get("RANK", "0"))))
