"""The page: self-contained, escaped, and complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import torch

from dfq_plugin.report import Report
from dfq_plugin.report.html import render_html
from dfq_plugin.tests.report.samples import full_report

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what a test wants to know, and notices tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [value for name in ("src", "href", "srcset") if (value := values.get(name))]
        if tag == "section":
            self.sections.append(values["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page(report: Report, images: torch.Tensor | None = None) -> Page:
    return Page(render_html(report, images, None, None))


def test_says_everything_when_everything_is_known() -> None:
    shown = page(full_report(), torch.rand(2, 3, 8, 8))
    assert shown.open == []
    assert shown.sections == [
        *["notes", "quality", "kernels", "speed", "bits", "sqnr", "images", "losses", "timings", "provenance", "config"]
    ]
    words = " ".join(shown.words.split())
    for said in (
        "All 52 operators run on integer kernels, 12,345,678 codes compared, 0 mismatches.",
        "70.25 %",
        "-4.75 points against the teacher",
        "Accuracy measured on: 500 images of folder:photos",
        "Agreement measured on: 500 images of folder:photos",
        "Compared on: 16 noise images",
        "Time measured on: one thread, batch 1",
        "Measured on: 64 other synthetic images",
        "All 3 quantizers",
        "All 2 images: 256 synthetic images by intraq, seed 0",
        "first layer",
        "1 min 40 s",
        "Loaded at full optimisation; operators counted.",
    ):
        assert said in words


def test_is_self_contained() -> None:
    shown = page(full_report(), torch.rand(2, 3, 8, 8))
    assert shown.addresses
    assert all(address.startswith("data:image/png;base64,") for address in shown.addresses)
    assert shown.tags.isdisjoint({"script", "link", "iframe", "object"})
    html = render_html(full_report(), None, None, None)
    assert not re.search(r"@import|url\(|https?://", html)


def test_every_value_is_escaped() -> None:
    evil = "<script>alert('x')</script>"
    node = {"name": evil, "op_type": evil, "reason": evil}
    bits = {"name": f'"{evil}', "kind": evil, "layer": evil, "requested": 4, "applied": 4, "reason": evil}
    report = full_report(
        model=evil,
        census={"integer": 1, "float": 1, "float_nodes": [node]},
        bits=[bits],
        config={evil: evil},
        provenance={evil: evil},
        notes=[evil],
        evidence=evil,
        timings_s={evil: 1.0},
        measured_on=dict.fromkeys(("accuracy", "agreement", "parity", "latency_ms", "sqnr_db"), evil),
    )
    shown = page(report)
    assert "script" not in shown.tags
    assert shown.words.count(evil) >= 12


@pytest.mark.parametrize("report", [Report(), Report(timings_s={"export": 0.0})], ids=["empty", "zero_time"])
def test_leaves_out_what_is_not_known(report: Report) -> None:
    shown = page(report)
    assert "The exported file was not examined." in shown.words
    assert set(shown.sections) <= {"kernels", "timings"}
    assert shown.addresses == []


def test_shows_the_details_of_the_proof_when_they_are_known() -> None:
    details = {"tensors_taken": 7, "logits_equal": False, "worst": [("conv3_out", 2)]}
    report = full_report(
        parity={"codes_compared": 9, "mismatches": 2, "tensors": 1, **details},
        census={"integer": 5, "float": 0, "float_nodes": [], "by_type": {"QLinearConv": 4, "QGemm": 1}},
        kl_nats={"student": 0.012345, "onnx": 0.02},
        logits_sqnr_db={"student": 18.26, "onnx": None},
    )
    words = " ".join(page(report).words.split())
    for said in (
        "7 tensors stand behind a float operator",
        "The logits are not equal.",
        "conv3_out",
        "4 × QLinearConv",  # noqa: RUF001 - the sign on the page
        "0.0123 nats",
        "18.3 dB",
    ):
        assert said in words
    assert (
        "The logits are equal bit by bit."
        in page(full_report(parity={"codes_compared": 9, "mismatches": 0, "tensors": 1, "logits_equal": True})).words
    )


def test_verdict_colours_the_page() -> None:
    html = render_html(full_report(parity={"codes_compared": 9, "mismatches": 2, "tensors": 1}), None, None, None)
    assert 'class="verdict fail"' in html


def test_applied_bits_stand_out_when_they_are_not_those_requested() -> None:
    html = render_html(full_report(), None, None, None)
    assert html.count('class="right differs">8<') == 1


def test_accuracy_is_set_against_the_teacher_twice() -> None:
    words = page(full_report()).words
    assert words.count("-4.75 points against the teacher") == 2


def test_weakest_layers_come_first() -> None:
    words = page(full_report()).words
    assert words.index("12.2 dB") < words.index("20.5 dB") < words.index("exact")


def test_longest_stage_has_the_full_bar() -> None:
    html = render_html(full_report(), None, None, None)
    assert "width: 100.0%" in html
    assert "width: 11.1%" in html
