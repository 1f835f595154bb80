"""The files of a report."""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch

import dfq_plugin
from dfq_plugin.report import Pictures, Report, write_report
from dfq_plugin.tests.report.samples import full_report
from dfq_plugin.tests.report.test_html import Page


@pytest.mark.usefixtures("no_plots")
def test_writes_three_files_and_nothing_else(tmp_path: Path) -> None:
    written = write_report(full_report(), tmp_path / "new" / "run", Pictures(torch.rand(1, 3, 8, 8)))
    assert {path.name for path in (tmp_path / "new" / "run").iterdir()} == {"report.json", "report.md", "report.html"}
    assert written.html is not None
    assert written.html.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Report.from_json(json.loads(written.json.read_text(encoding="utf-8"))).parity["tensors"] == 51
    assert written.markdown.read_text(encoding="utf-8").startswith("# timm:tiny")


def test_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    written = write_report(full_report(), tmp_path, Pictures(torch.rand(2, 3, 8, 8)))
    assert written.html is not None
    html = written.html.read_text(encoding="utf-8")
    shown = Page(html)
    inside = {f"#{section}" for section in shown.sections}
    pictures = set(shown.addresses) - inside
    assert inside < set(shown.addresses)
    assert len(pictures) == 2 * 4 + 1  # four plots in two sizes, and the contact sheet
    assert all(address.startswith("data:image/png;base64,") for address in pictures)
    assert shown.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"@import|url\(|https?://", html)


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_json_and_markdown_are_written_with_one_warning_when_a_package_is_missing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dfq_plugin, "report", dfq_plugin.report)  # which the import below replaces
    for module in [name for name in sys.modules if name.startswith("dfq_plugin.report")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    warnings: list[str] = []
    listener = logging.Handler(logging.WARNING)
    monkeypatch.setattr(listener, "emit", lambda record: warnings.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("nncf.dfq_plugin.report"), "handlers", [listener])
    (tmp_path / "report.html").write_text("of another run")
    fresh = importlib.import_module("dfq_plugin.report")
    written = fresh.write_report(fresh.Report(model="m"), tmp_path)
    assert written.html is None
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}
    assert warnings == [f"No report.html, because {package} is missing: pip install 'dfq-plugin[report]'"]


@pytest.mark.usefixtures("no_plots")
def test_old_file_stays_whole_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(full_report(), tmp_path)
    before = (tmp_path / "report.json").read_text(encoding="utf-8")

    def fail(_self: Path, _target: Path) -> None:
        msg = "disk is full"
        raise OSError(msg)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_report(full_report(model="another"), tmp_path)
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}
