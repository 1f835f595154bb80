"""The page and the card about two runs."""

from __future__ import annotations

import torch

from dfq_plugin.report import Pictures, Report, Side
from dfq_plugin.report.comparison import compare
from dfq_plugin.report.comparison_pages import render_comparison_html, render_comparison_markdown, summarise
from dfq_plugin.tests.report.samples import full_content, full_report
from dfq_plugin.tests.report.test_html import Page

BETTER = full_report(accuracy={**full_content()["accuracy"], "onnx": 72.0}, config={"model": {"source": "timm:other"}})


def test_summary_counts_the_differences() -> None:
    assert summarise(compare(full_report(), full_report())) == "Nothing differs."
    assert summarise(compare(full_report(), BETTER)) == "2 differences: B is better in 1, worse in 0, other in 1."


def test_card_marks_what_differs() -> None:
    card = render_comparison_markdown(Side("runs/a", full_report()), Side("runs/b", BETTER))
    assert "A: runs/a\n\nB: runs/b\n\n2 differences" in card
    assert "| ONNX file (onnxruntime): top-1 accuracy | 70.25 % | 72.00 % | ▲ better |" in card
    assert "| model.source | timm:tiny | timm:other | ≠ other |" in card
    assert "| mismatches | 0 | 0 |  |" in card


def test_page_is_self_contained_and_shows_both() -> None:
    pictures = Pictures(torch.rand(2, 3, 8, 8))
    html = render_comparison_html(Side("runs/a", full_report(), pictures), Side("runs/b", BETTER))
    shown = Page(html)
    words = " ".join(shown.words.split())
    assert shown.open == []
    assert shown.addresses
    assert all(address.startswith("data:image/png;base64,") for address in shown.addresses)
    assert shown.tags.isdisjoint({"script", "link", "iframe", "object"})
    for said in (
        "A runs/a", "B runs/b", "70.25 % 72.00 % ▲ better", "timm:tiny timm:other ≠ other",
        "Signal to quantization noise (SQNR) of every quantized tensor", "BatchNorm loss of the images", "A: runs/a",
    ):  # fmt: skip
        assert said in words
    assert "B: runs/b" not in words  # whose images are not there


def test_page_of_reports_that_say_nothing_can_be_made() -> None:
    shown = Page(render_comparison_html(Side("<script>", Report()), Side("b", Report())))
    assert "script" not in shown.tags
    assert "Nothing differs." in shown.words
