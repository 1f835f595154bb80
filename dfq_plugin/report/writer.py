"""The report on disk: JSON for programs, HTML for people, Markdown to pass on."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfq_plugin.files import whole_file
from dfq_plugin.report.content import Report
from dfq_plugin.report.markdown import render_markdown

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("nncf.dfq_plugin.report")

NEEDED_FOR_HTML = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class WrittenReport:
    """Where the report is; ``html`` is None when the packages for it are not installed."""

    json: Path
    markdown: Path
    html: Path | None


def write_report(
    report: Report,
    folder: Path,
    images: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> WrittenReport:
    """Write ``report.json``, ``report.md`` and ``report.html``; whoever reads sees whole files only.

    Args:
        report: What to say.
        folder: Where to; made when missing.
        images: Synthetic images for the contact sheet, (N, C, H, W), in the teacher's normalised input space.
        mean: Per channel, of pixels in 0..1, to show the images in their own colours.
        std: Likewise.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = WrittenReport(json=folder / "report.json", markdown=folder / "report.md", html=folder / "report.html")
    _write(paths.json, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
    _write(paths.markdown, render_markdown(report))
    html = _write_html(report, folder / "report.html", images, mean, std)
    logger.info("Report written to %s", html or paths.markdown)
    return WrittenReport(json=paths.json, markdown=paths.markdown, html=html)


def _write_html(
    report: Report, path: Path, images: Tensor | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Path | None:
    missing = [name for name in NEEDED_FOR_HTML if importlib.util.find_spec(name) is None]
    if missing:
        logger.warning("No report.html, because %s is missing: pip install 'dfq-plugin[report]'", " and ".join(missing))
        path.unlink(missing_ok=True)  # an older one would tell of another run
        return None
    from dfq_plugin.report.html import render_html  # noqa: PLC0415 - needs the packages just looked for

    _write(path, render_html(report, images, mean, std))
    return path


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
