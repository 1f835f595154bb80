"""Several processes at once, little memory, little disk, no network: told in one message, or of no effect."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import dfq_plugin as dfq
from dfq_plugin import space
from dfq_plugin.errors import InputError, OutputError
from dfq_plugin.files import output_folder
from dfq_plugin.machine import extension_folder
from dfq_plugin.testing import tiny_teacher
from integration_tests.kill_matrix import Matrix, server
from integration_tests.tiny_run import FILES, ROOT, environment, files_in, run_command, tiny_job

GENERATORS = 8


def write_job(folder: Path, **more: Any) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(tiny_job(folder / "out", **more)))
    return path


def generate(folder: Path, index: int) -> None:
    """What one of many processes does; what it tells goes to a file."""
    logger = logging.getLogger("nncf.dfq_plugin")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(folder / f"{index}.log"))
    os.environ["DFQ_CACHE_DIR"] = str(folder / "cache")
    params = {"steps": 60, "batch_size": 2}
    made = dfq.generate(tiny_teacher(), input_shape=(3, 8, 8), provider="zeroq", num_samples=4, params=params)
    made.save(folder / f"{index}.safetensors")


def test_eight_generators_on_one_cache_compute_once_and_give_the_same_bytes(tmp_path: Path) -> None:
    processes = [server().Process(target=generate, args=(tmp_path, index)) for index in range(GENERATORS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    told = [(tmp_path / f"{index}.log").read_text() for index in range(GENERATORS)]
    assert [process.exitcode for process in processes] == [0] * GENERATORS, told
    assert sum("images, loss" in text for text in told) == 1, "more than one computed, or none"
    assert sum("taken from" in text for text in told) == GENERATORS - 1
    assert len({(tmp_path / f"{index}.safetensors").read_bytes() for index in range(GENERATORS)}) == 1
    assert len(files_in(tmp_path / "cache")) == 1


def test_second_run_on_one_output_folder_is_told_at_once(tmp_path: Path) -> None:
    job = tiny_job(tmp_path / "out")
    with output_folder(tmp_path / "out"), pytest.raises(InputError, match="is in use by process"):
        dfq.run(job)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("kernels")
def test_whole_run_touches_no_network_and_writes_nothing_outside_of_its_folders(tmp_path: Path) -> None:
    config = write_job(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    # Every way out of the process is closed before anything is imported; each attempt is written down.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, socket\n"
        f"log = {str(tmp_path / 'attempts')!r}\n"
        "def refuse(*given, **more):\n"
        "    with open(log, 'a') as file:\n"
        "        print(given, file=file)\n"
        "    raise OSError('no network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse\n"
        "socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse\n"
    )
    around = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "DFQ_EXTENSION_DIR": str(extension_folder().parent),
    }
    result = run_command(config, tmp_path / "cache", **around)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()
    # What onnxruntime and NNCF keep where they send usage data from; onnxruntime's own sockets cannot be watched here.
    assert not [name for name in files_in(home) if "onnxruntime" in name or "intel" in name]
    assert files_in(tmp_path / "out") == FILES
    assert {entry.name for entry in tmp_path.iterdir()} == {"job.json", "out", "cache", "home", "sitecustomize.py"}


def test_the_guard_of_the_test_above_sees_a_connection(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*given): raise OSError('no network')\nsocket.socket.connect = refuse\n"
    )
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no network" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of that kind there")
def test_too_little_memory_ends_in_one_message_that_names_the_stage(tmp_path: Path) -> None:
    config = write_job(tmp_path, calibration={"provider": "noise", "num_samples": 1_000_000, "cache": False})
    code = (
        "import resource, sys, torch, dfq_plugin.stages\n"  # what is imported has its memory already
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))\n"
        "from dfq_plugin.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", str(config)],
        env=environment(tmp_path / "cache", OMP_NUM_THREADS="1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("dfq: ")]
    assert len(messages) == 1, done.stderr
    assert "Memory ran out in stage 'synthesize'" in messages[0]
    assert "Lower calibration.params.batch_size or calibration.num_samples" in messages[0]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").iterdir())


class TestDisk:
    def test_too_little_room_is_told_before_the_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 10**6, 10**6))
        with pytest.raises(OutputError, match=r"has 1 MB left, but this job writes about 17 MB\. .*--output"):
            dfq.run(tiny_job(tmp_path / "out"))
        assert files_in(tmp_path / "out") == {"config.json"}

    def test_estimate_grows_with_what_is_written(self) -> None:
        from dfq_plugin.config import load_config  # noqa: PLC0415
        from dfq_plugin.teacher import load_teacher  # noqa: PLC0415

        def estimate(**more: Any) -> int:
            config = load_config(tiny_job(Path("out"), **more))
            return space.estimate_bytes(config, load_teacher(config.model, config.input_shape))

        images = {"provider": "noise", "num_samples": 4 + 1000}
        assert estimate(calibration=images) - estimate() == 1000 * 3 * 16 * 16 * 4
        assert estimate(epochs=1) > estimate(epochs=0)


@pytest.mark.usefixtures("kernels")
def test_killed_runs_go_on_and_end_as_an_unbroken_one(tmp_path: Path) -> None:
    matrix = Matrix(tmp_path)
    outcomes = [matrix.kill(0.5), matrix.kill(0.4, 0.8)]
    assert all(outcome.same for outcome in outcomes), "\n".join(outcome.detail for outcome in outcomes)
    assert files_in(tmp_path / "out") == FILES
    assert any(outcome.left for outcome in outcomes)
