"""The model card."""

from __future__ import annotations

from dfq_plugin.report import Report
from dfq_plugin.report.markdown import count_bits, quality_rows, render_markdown
from dfq_plugin.tests.report.samples import full_report


def test_holds_every_figure_with_its_source() -> None:
    card = render_markdown(full_report())
    assert card.startswith("# timm:tiny, W4A4\n\n**Deployable. All 52 operators run on integer kernels")
    assert "| ONNX file (onnxruntime) | 70.25 % | 89.50 % |" in card
    assert "| Calibrated on 256 images: noise | 60.50 % | 71.25 % |" in card
    assert "| conv2 | 12.2 dB |\n| conv1 | 20.5 dB |\n| fc | exact |" in card
    assert "Noise measured on: 64 other synthetic images" in card
    assert "| intraq: batchnorm | 4 → 0.125 |" in card
    assert "| the synthetic images: distance from the BatchNorm statistics | 0.5 |" in card
    assert "| fine-tuning: total | 3 → 0.01 |" in card
    assert "To do it again: `dfq run 'runs/my run/config.json'`" in card
    assert "Accuracy measured on: 500 images of folder:photos" in card
    assert "Latency measured on: one thread, batch 1" in card
    assert "| integer | 1.0 KiB | 4.00 ms |" in card
    assert "| ratio | 4.00x | 2.50x |" in card
    assert "| calibrated on | 256 synthetic images by intraq, seed 0 |" in card
    assert "| time | 1 min 40 s |" in card
    assert "- One note." in card


def test_leaves_sections_out_when_they_are_empty() -> None:
    card = render_markdown(Report(model="m"))
    for section in ("Quality", "Bits", "Synthesis", "Notes"):
        assert f"## {section}" not in card


def test_lists_float_operators_with_their_reasons() -> None:
    node = {"name": "a", "op_type": "Soft|max", "reason": "not <exact>\non integers"}
    card = render_markdown(full_report(census={"integer": 1, "float": 2, "float_nodes": [node, node]}))
    assert "| Soft\\|max | not &lt;exact> on integers | 2 |" in card


def test_bits_are_counted_by_kind_and_applied_bits() -> None:
    assert count_bits(full_report()) == [(("activation", 4), 1), (("weight", 4), 1), (("weight", 8), 1)]


def test_float_network_has_no_row_without_labels_to_judge_it_by() -> None:
    report = full_report(accuracy={"teacher": None, "student": None, "onnx": None})
    assert quality_rows(report)[0]["name"] == "Data-free student (PyTorch)"
    assert quality_rows(full_report())[0]["name"] == "Float"
