"""Kill a whole job at random moments, run the same job again, and compare what it ends with.

    python -m integration_tests.kill_matrix --kills 100

Every run is a process of its own, forked from one that has loaded the libraries, and is killed with SIGKILL, which
nothing in it can see. The moments are spread over the length of an unbroken run by a seed; every fifth run is killed
again while it goes on from the first kill.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from integration_tests.tiny_run import files_in, fingerprints, tiny_job

JOBS: dict[str, dict[str, Any]] = {
    "rounding": {},
    "reconstruction": {"quantize": {"weight_bits": 4, "activation_bits": 4, "reconstruction": {"steps": 50}}},
}
COMPARED = ("synthetic.safetensors", "student/student.safetensors", "model.onnx")


@dataclass(frozen=True)
class Outcome:
    """What became of one killed run.

    Attributes:
        after_s: when it was killed, in seconds from its start.
        left: the files that the killed process left in the output folder and the cache.
        same: whether the same job then ended with the same results as an unbroken run.
        detail: what differs, or the message of the run that did not end.
    """

    after_s: float
    left: tuple[str, ...]
    same: bool
    detail: str = ""


class Matrix:
    """One job, what an unbroken run of it gives, and how long that takes.

    Args:
        folder: for everything.
        job: a name from ``JOBS``.
    """

    def __init__(self, folder: Path, job: str = "rounding") -> None:
        self._folder = folder
        (folder / "job.json").write_text(json.dumps(tiny_job(folder / "out", epochs=2, **JOBS[job])))
        self._finish(folder / "first cache")  # the server loads the libraries meanwhile
        shutil.rmtree(folder / "out")
        started = time.monotonic()
        self._finish(folder / "unbroken cache")
        self.seconds = time.monotonic() - started
        self._expected = fingerprints(folder / "out")

    def kill(self, *shares: float) -> Outcome:
        """Kill runs of one job after shares of the time that an unbroken one takes, then run it to its end."""
        output, cache = self._folder / "out", self._folder / "cache"
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        for share in shares:
            process = self._start(cache)
            process.join(share * self.seconds)
            process.kill()
            process.join()
        left = tuple(sorted([*files_in(output), *(f"cache/{name}" for name in files_in(cache))]))
        try:
            self._finish(cache)
            found = fingerprints(output)
        except (AssertionError, OSError, ValueError) as error:
            return Outcome(shares[0] * self.seconds, left, same=False, detail=str(error))
        different = [name for name in COMPARED if found[name] != self._expected[name]]
        return Outcome(shares[0] * self.seconds, left, same=not different, detail=", ".join(different))

    def _start(self, cache: Path) -> Any:
        process = server().Process(target=run_job, args=(self._folder, cache))
        process.start()
        return process

    def _finish(self, cache: Path) -> None:
        process = self._start(cache)
        process.join()
        assert process.exitcode == 0, (self._folder / "told").read_text()[-12000:]


def server() -> ForkServerContext:
    """Where processes come from that begin with the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["integration_tests.warm"])
    return context


def run_job(folder: Path, cache: Path) -> None:
    """Run the job in ``folder`` as the command does, in this process; what it tells goes to a file."""
    from dfq_plugin.cli import app  # noqa: PLC0415 - the server has it already

    told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    os.environ["DFQ_CACHE_DIR"] = str(cache)
    app(["run", str(folder / "job.json")])


def main() -> None:
    """Print one line a kill, and the count of those that ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, default="rounding")
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder), chosen.job)
        print(f"unbroken run: {matrix.seconds:.1f} s", flush=True)  # noqa: T201
        outcomes = []
        for index in range(chosen.kills):
            outcomes.append(matrix.kill(*(moments.random() for _ in range(2 if index % 5 == 4 else 1))))
            print(index, outcomes[-1], flush=True)  # noqa: T201
    same = sum(outcome.same for outcome in outcomes)
    print(f"{same} of {len(outcomes)} killed runs ended as the unbroken one")  # noqa: T201
    raise SystemExit(same != len(outcomes))


if __name__ == "__main__":
    main()
