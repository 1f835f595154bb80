"""The page: self-contained, escaped, and complete."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

from dfq_plugin.report import Pictures, Report
from dfq_plugin.report.html import render_html
from dfq_plugin.tests.report.samples import full_report

pytestmark = pytest.mark.usefixtures("no_plots")
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
        self.words += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        self.words += data


def page(report: Report, images: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> Page:
    return Page(render_html(report, None if images is None else Pictures(images, labels)))


def test_says_everything_when_everything_is_known() -> None:
    shown = page(full_report(), torch.rand(2, 3, 8, 8))
    assert shown.open == []
    assert shown.sections == [
        *["quality", "layers", "images", "synthesis", "finetune", "kernels", "speed"],
        *["notes", "timings", "repeat", "provenance"],
    ]
    words = " ".join(shown.words.split())
    for said in (
        "All 52 operators run on integer kernels, 12,345,678 codes compared, 0 mismatches.",
        "70.25 %",
        "Deployable",
        "-4.75 points against float",
        "Calibrated on 256 images: noise 60.50 % 71.25 %",
        "Calibrated on 256 images: folder:photos 72.00 % 93.75 %",
        "On average over the layers: 2 for noise, 0.5 for the synthetic images, 0.125 for real images.",
        "Of “validate”, 1 min 15 s went into the baseline noise.",
        "dfq run 'runs/my run/config.json'",
        "Losses of the images",
        "Losses of the student",
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


def test_student_keeps_its_figures_where_the_float_network_has_no_row() -> None:
    report = full_report(accuracy={"teacher": None, "student": None, "onnx": None})
    words = " ".join(page(report).words.split())
    assert report.agreement["student"] is not None
    assert f"Data-free student (PyTorch) {report.agreement['student']:.2f} %" in words


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
        command=evil,
        layers=[{"layer": evil, "weight_bits": 4, "input_bits": 4, "input_sqnr_db": 1.0}],
        baselines={evil: next(iter(full_report().baselines.values()))},
        measured_on=dict.fromkeys(full_report().measured_on, evil),
    )
    shown = page(report)
    assert "script" not in shown.tags
    assert shown.words.count(evil) >= 15


@pytest.mark.parametrize("report", [Report(), Report(timings_s={"export": 0.0})], ids=["empty", "zero_time"])
def test_leaves_out_what_is_not_known(report: Report) -> None:
    shown = page(report)
    assert "The exported file was not examined." in shown.words
    assert set(shown.sections) <= {"kernels", "timings"}
    assert set(shown.addresses) == {f"#{section}" for section in shown.sections}


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
    html = render_html(full_report(parity={"codes_compared": 9, "mismatches": 2, "tensors": 1}))
    assert 'class="verdict fail"' in html


def test_applied_bits_stand_out_when_they_are_not_those_requested() -> None:
    html = render_html(full_report())
    assert html.count('class="right differs" data-label="Given">8<') == 1


def test_layer_with_the_noisiest_input_comes_first_and_one_in_float_last() -> None:
    words = page(full_report()).words.split("noisiest input first")[1]
    assert words.index("conv2") < words.index("20.5 dB") < words.index("conv1") < words.index("exact")
    assert words.index("exact") < words.index("fc") < words.index("float")


def test_quantizers_are_listed_with_the_noisiest_tensor_first_and_weights_last() -> None:
    report = full_report(
        sqnr_db=[("conv2", 12.25), ("conv1", 3.0)],
        bits=[
            {**full_report().bits[2], "layer": layer, "kind": kind}
            for layer, kind in (("conv2", "weight"), ("conv2", "activation"), ("conv1", "activation"))
        ],
    )
    words = page(report).words.split("bits asked for and given")[1].split()
    assert [word for word in words if word.startswith("conv")] == ["conv1", "conv2", "conv2"]
    assert words.index("3.0") < words.index("12.2") < words.index("weight")


def test_many_layers_and_many_operators_in_float_are_folded_but_all_there() -> None:
    layers = [
        {"layer": f"layer{index}", "weight_bits": 8, "input_bits": 8, "input_sqnr_db": float(index)}
        for index in range(20)
    ]
    nodes = [{"name": f"node{index}", "op_type": "Softmax", "reason": "no kernel"} for index in range(13)]
    census = {"integer": 40, "float": 13, "float_nodes": nodes, "products_asked": 20, "products_integer": 20}
    words = page(full_report(layers=layers, census=census)).words
    assert words.index("layer11") < words.index("The other 8 layers") < words.index("layer12")
    assert "Softmax no kernel 13" in " ".join(words.split())
    assert all(f"node{index} " in words for index in range(13))


def test_images_with_labels_stand_in_rows_of_their_class() -> None:
    shown = page(full_report(), torch.rand(7, 3, 8, 8), torch.tensor([4, 2, 4, 2, 4, 2, 2]))
    words = " ".join(shown.words.split())
    assert words.index("class 2") < words.index("class 4")
    assert "All 7 images: 256 synthetic images" in words


def test_curves_of_a_generator_and_adaptability_have_plots_of_their_own() -> None:
    losses = {
        "distillation": [3.0, 1.0], "generator.margin": [2.0, 1.0, 1.0], "generator.adaptability": [0.25, 0.5, 0.75]
    }  # fmt: skip
    curves = [
        {"provider": "adadfq", "at": [1, 2], "values": {"margin": [1.0, 0.5], "adaptability": [0.5, 0.75]}},
        {"provider": "zeroq", "at": [1, 2], "values": {"batchnorm": [1.0, 0.5]}},
    ]
    words = page(full_report(losses=losses, synthesis_curves=curves)).words
    for title in (
        "Losses of the student", "Losses of the generator", "Adaptability of its images",
        "Losses of the images (adadfq)", "Adaptability of the images (adadfq)", "Losses of the images (zeroq)",
    ):  # fmt: skip
        assert title in words


def test_longest_stage_has_the_full_bar() -> None:
    html = render_html(full_report())
    assert "width: 100.0%" in html
    assert "width: 11.1%" in html
