"""A tracker that remembers, and jobs to track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfq_plugin.config import Config, load_config
from dfq_plugin.report import Report
from dfq_plugin.tracking import Point


class Recorder:
    """Keeps everything that it hears; fails from the given call on."""

    def __init__(self, fail_at: str = "") -> None:
        self.points: list[Point] = []
        self.calls: list[str] = []
        self.fail_at = fail_at

    def scalars(self, points: Sequence[Point]) -> None:
        self._hear("scalars")
        self.points += points

    def finish(self, report: Report, folder: Path) -> None:  # noqa: ARG002
        self._hear("finish")

    def close(self, *, failed: bool) -> None:
        self._hear(f"close {failed}")

    def _hear(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fail_at:
            msg = "the server is gone"
            raise OSError(msg)


def config(output: Path, **tracking: Any) -> Config:
    return load_config(
        {
            "model": {"source": "python:some.module:factory"},
            "input_shape": [3, 8, 8],
            "output_dir": str(output),
            "tracking": tracking,
        }
    )
