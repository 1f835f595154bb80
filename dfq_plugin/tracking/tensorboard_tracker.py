"""Curves and figures for TensorBoard: event files in a folder; the report goes in as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dfq_plugin.report import Report
from dfq_plugin.report.markdown import render_markdown
from dfq_plugin.tracking.trackers import Point

FLUSH_SECONDS = 10  # until what was written can be seen


class TensorBoardTracker:
    """Write event files into a folder, which becomes a run of that name."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(log_dir=str(folder), flush_secs=FLUSH_SECONDS)

    def scalars(self, points: Sequence[Point]) -> None:
        for name, value, step in points:
            self._writer.add_scalar(name, value, step)

    def finish(self, report: Report, folder: Path) -> None:  # noqa: ARG002 - TensorBoard keeps no files
        self._writer.add_text("report", render_markdown(report))

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - TensorBoard has no word for it
        self._writer.close()
