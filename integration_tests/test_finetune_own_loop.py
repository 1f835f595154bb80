"""The example of a loop of one's own: it runs, twice alike, and so does what it offers beyond."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("kernels")


def run_example(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DFQ_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "04_own_loop.py"), "--smoke", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def results(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.endswith("%") or line.startswith("adaptability")]


def test_it_prints_the_same_results_twice(tmp_path: Path) -> None:
    first, second = run_example(tmp_path), run_example(tmp_path)  # the second takes the images from the cache
    assert first.returncode == 0, first.stderr
    assert results(first.stdout) == results(second.stdout)
    plain, before, after = (float(number) for number in re.findall(r"(\d+\.\d+) %", first.stdout))
    assert plain > 95
    assert after > max(before, 85)
    assert len(re.findall(r"0\.\d{3}", results(first.stdout)[-1])) == 6


def test_accelerate_drives_the_same_hooks(tmp_path: Path) -> None:
    done = run_example(tmp_path, "--accelerate")
    assert done.returncode == 0, done.stderr
    assert len(results(done.stdout)) == 4
