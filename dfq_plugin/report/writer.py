"""The report on disk: JSON for programs, HTML for people, Markdown to pass on."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfq_plugin.files import whole_file
from dfq_plugin.report.comparison import compare
from dfq_plugin.report.comparison_pages import Side, render_comparison_html, render_comparison_markdown, summarise
from dfq_plugin.report.content import Report
from dfq_plugin.report.markdown import render_markdown
from dfq_plugin.report.pictures import Pictures

logger = logging.getLogger("nncf.dfq_plugin.report")

NEEDED_FOR_HTML = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class WrittenReport:
    """Where the report is; ``html`` is None when the packages for it are not installed."""

    json: Path
    markdown: Path
    html: Path | None


def write_report(report: Report, folder: Path, pictures: Pictures | None = None) -> WrittenReport:
    """Write ``report.json``, ``report.md`` and ``report.html``; whoever reads sees whole files only.

    Args:
        report: What to say.
        folder: Where to; made when missing.
        pictures: The synthetic images, for the contact sheet.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = WrittenReport(json=folder / "report.json", markdown=folder / "report.md", html=folder / "report.html")
    _write(paths.json, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
    _write(paths.markdown, render_markdown(report))
    html = _write_html(folder / "report.html", lambda: _render_html(report, pictures))
    logger.info("Report written to %s", html or paths.markdown)
    return WrittenReport(json=paths.json, markdown=paths.markdown, html=html)


@dataclass(frozen=True)
class WrittenComparison:
    """Where a comparison is, and what it says in a sentence; ``html`` as for a report."""

    markdown: Path
    html: Path | None
    summary: str


def write_comparison(left: Side, right: Side, folder: Path) -> WrittenComparison:
    """Write ``comparison.html`` and ``comparison.md``, as ``write_report`` does.

    Args:
        left: One run.
        right: The run that is set against it.
        folder: Where to; made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    markdown = folder / "comparison.md"
    _write(markdown, render_comparison_markdown(left, right))
    html = _write_html(folder / "comparison.html", lambda: render_comparison_html(left, right))
    return WrittenComparison(markdown, html, summarise(compare(left.report, right.report)))


def _write_html(path: Path, render: Callable[[], str]) -> Path | None:
    missing = [name for name in NEEDED_FOR_HTML if importlib.util.find_spec(name) is None]
    if missing:
        packages = " and ".join(missing)
        logger.warning("No %s, because %s is missing: pip install 'dfq-plugin[report]'", path.name, packages)
        path.unlink(missing_ok=True)  # an older one would tell of another run
        return None
    _write(path, render())
    return path


def _render_html(report: Report, pictures: Pictures | None) -> str:
    from dfq_plugin.report.html import render_html  # noqa: PLC0415 - needs the packages that were looked for

    return render_html(report, pictures)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
