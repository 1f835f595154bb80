"""The build of NNCF's kernels, with real processes that are killed, wait and load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# What torch.utils.cpp_extension did before it took locks of the operating system: a file whose existence is the lock.
BUILD_LIKE_OLD_TORCH = """
import sys, time
from pathlib import Path
from torch.utils.file_baton import FileBaton
from dfq_plugin.quantization.extension import obtain

def build(folder):
    place = folder / "nncf" / "kernels"
    place.mkdir(parents=True, exist_ok=True)
    baton = FileBaton(str(place / "lock"))
    if not baton.try_acquire():
        baton.wait()  # forever, when the process that made the file is gone
        return place / "kernels.so"
    try:
        with (folder.parent / "builds").open("a") as file:
            file.write("one ")
        while not Path(sys.argv[2]).exists():
            time.sleep(0.05)
        (place / "kernels.so").touch()
    finally:
        baton.release()
    return place / "kernels.so"

print(obtain(Path(sys.argv[1]), "cpu", load=lambda library: None, build=build))
"""

BUILD_FOR_REAL = """
import torch
from dfq_plugin.quantization.extension import ensure_extension
from nncf.torch.quantization.extensions import QuantizedFunctionsCPU
from nncf.torch.quantization.reference import ReferenceQuantizedFunctions

folder = ensure_extension()
kernel = QuantizedFunctionsCPU.get("Quantize_forward")
arguments = torch.linspace(-2, 2, 101).view(1, -1), torch.tensor([-1.0]), torch.tensor([2.0]), 16
torch.testing.assert_close(kernel(*arguments), ReferenceQuantizedFunctions.Quantize_forward(*arguments))
print(folder)
"""


def start(
    script: str, *arguments: Path, output: Path | None = None, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(variables or {})}
    with (output or Path(os.devnull)).open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=environment,
            stdout=file if output else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that the compilers it starts can be killed with it
        )


def finish(process: subprocess.Popen[str], timeout_s: float) -> str:
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        kill(process)
    assert process.returncode == 0, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def wait_for(happened: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.05)


def test_lock_left_by_a_killed_build_does_not_hang(tmp_path: Path) -> None:
    folder = tmp_path / "ext"
    lock = folder / "nncf" / "kernels" / "lock"
    killed = start(BUILD_LIKE_OLD_TORCH, folder, tmp_path / "never")
    try:
        wait_for(lock.exists, 60)
    finally:
        kill(killed)
    assert lock.exists()
    output = finish(start(BUILD_LIKE_OLD_TORCH, folder, tmp_path), 60)
    assert output.splitlines()[-1] == str(folder / "nncf" / "kernels" / "kernels.so")
    assert not lock.exists()
    assert (tmp_path / "builds").read_text() == "one one "


def test_parallel_processes_build_once_and_the_others_wait(tmp_path: Path) -> None:
    folder, go_on = tmp_path / "ext", tmp_path / "go_on"
    outputs = [tmp_path / f"output{index}" for index in range(3)]
    processes = [start(BUILD_LIKE_OLD_TORCH, folder, go_on, output=outputs[0])]
    try:
        wait_for((folder / "nncf" / "kernels" / "lock").exists, 60)
        processes += [start(BUILD_LIKE_OLD_TORCH, folder, go_on, output=output) for output in outputs[1:]]
        message = f"Waiting for process {processes[0].pid} on "
        wait_for(lambda: all(message in output.read_text() for output in outputs[1:]), 60)
        go_on.touch()
        for process in processes:
            finish(process, 60)
    finally:
        for process in processes:
            kill(process)
    assert (tmp_path / "builds").read_text() == "one "
    assert {output.read_text().splitlines()[-1] for output in outputs} == {str(folder / "nncf/kernels/kernels.so")}


@pytest.mark.slow
def test_real_build_survives_a_kill_and_then_loads_without_any_tool(tmp_path: Path) -> None:
    place = {"DFQ_EXTENSION_DIR": str(tmp_path)}
    killed = start(BUILD_FOR_REAL, variables=place)
    try:
        wait_for(lambda: any(tmp_path.rglob("build.ninja")), 60)
    finally:
        kill(killed)
    output = finish(start(BUILD_FOR_REAL, variables=place), 600)
    assert "Building NNCF's quantization kernels" in output
    assert "Built NNCF's quantization kernels in" in output
    assert Path(output.splitlines()[-1]).is_relative_to(tmp_path)
    again = finish(
        start(BUILD_FOR_REAL, variables={**place, "PATH": os.devnull, "TORCH_EXTENSIONS_DIR": os.devnull}), 60
    )
    assert "Building" not in again
    assert again.splitlines()[-1] == output.splitlines()[-1]


def test_missing_compiler_is_named_with_the_remedy(tmp_path: Path) -> None:
    process = start(BUILD_FOR_REAL, variables={"DFQ_EXTENSION_DIR": str(tmp_path), "PATH": os.devnull})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DFQError: NNCF's quantization kernels have to be compiled once; this machine lacks a C++ compiler" in output
    assert "Compiling and loading torch extension" not in output
