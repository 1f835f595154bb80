"""The benchmarks that need no data run, at tiny sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_performance_gives_every_ratio() -> None:
    command = [sys.executable, str(BENCHMARKS / "performance.py"), "--smoke", "--rounds", "1", "--steps", "1"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    for ratio in (
        "ours / floor",
        "plain / ours",
        "plain / bfloat16",
        "fine-tuning / training",
        "exponent",
        "one process / two",
        "most / fewest",
        "minutes",
        "GB",
    ):
        assert f"'{ratio}': " in found.stdout
