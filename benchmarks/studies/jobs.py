"""Measurements that each run in a process of their own, and a file of results that a study goes on from.

A process of its own gives each measurement its own peak memory, and what is left of one never slows the next.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]
Row = dict[str, Any]
IMAGES = 256  # of a row that does not say how many
RESULTS = Path(__file__).parents[1] / "results"


class Stopwatch:
    """Minutes between entering and leaving."""

    minutes = 0.0

    def __enter__(self) -> Stopwatch:
        """Start."""
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.minutes = round((time.perf_counter() - self._start) / 60, 3)


def measure_all(study: str, jobs: Iterable[Job], script: str, data: Path) -> None:
    """Measure what is not measured yet, each job in a process of its own.

    Args:
        study: names the file of results, one JSON object a line: the job with what was measured.
        jobs: what to measure; each is told apart by all of its fields.
        script: the study's own file, which ``answer`` makes do one job.
        data: the folder with the labelled images.
    """
    path = RESULTS / f"{study}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if find(read_rows(path), job) is not None:
            continue
        row = {**job, **_run_apart(script, job, data)}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measured(study: str) -> list[Row]:
    """The rows that went well, in the order they were measured in: what every page is written from."""
    return [row for row in read_rows(RESULTS / f"{study}.jsonl") if "error" not in row]


def minutes_of_images(method: str, count: int) -> float:
    """What making the images took, in whichever study made them; the others took them from the cache."""
    rows = [row for study in ("methods", "images") for row in measured(study)]
    same = [row["images_minutes"] for row in rows if (row["method"], row.get("count", IMAGES)) == (method, count)]
    return max(same)


def read_rows(path: Path) -> list[Row]:
    """What was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find(rows: Iterable[Row], job: Job) -> Row | None:
    """The row of a job that went well, if there is one."""
    same = [row for row in rows if "error" not in row and all(row.get(key) == value for key, value in job.items())]
    return same[-1] if same else None


def _run_apart(script: str, job: Job, data: Path) -> Row:
    command = [sys.executable, script, "--data", str(data), "--one", json.dumps(job)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the study itself
    try:
        row: Row = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"exit code {result.returncode}: {result.stderr[-400:]}"}
    return row


def answer(measure: Callable[[Job, Path], Row], job: str, data: Path) -> None:
    """Do one job and print its row, with the minutes and the peak memory it took."""
    with Stopwatch() as whole:
        row = measure(json.loads(job), data)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    print(json.dumps({**row, "minutes": whole.minutes, "memory_gb": round(memory, 2), "threads": threads}))
