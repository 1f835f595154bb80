"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfq_plugin.tests.report.samples import full_report
from dfq_plugin.tests.tracking.samples import config
from dfq_plugin.tracking import tracked

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_curves_figures_and_report_can_be_read_back(tmp_path: Path) -> None:
    job = config(tmp_path / "runs" / "tiny", tensorboard=str(tmp_path / "board"))
    with tracked(job) as trackers:
        trackers.watch({"distillation": [3.0]})
        trackers.watch({"distillation": [3.0, 0.5]})
        trackers.finish(full_report(), tmp_path)
    found = accumulator.EventAccumulator(str(tmp_path / "board" / "tiny"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("finetune/distillation")] == [(1, 3.0), (2, 0.5)]
    assert [(event.step, event.value) for event in found.Scalars("synthesize/intraq/batchnorm")] == [
        (1, 4.0), (50, 0.5), (100, 0.125)
    ]  # fmt: skip
    assert [event.value for event in found.Scalars("final/accuracy.onnx")] == [70.25]
    (text,) = found.Tensors("report/text_summary")
    assert b"# timm:tiny, W4A4" in text.tensor_proto.string_val[0]
