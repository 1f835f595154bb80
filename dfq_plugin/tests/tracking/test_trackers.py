"""What trackers hear, and that nothing they do costs the run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.report import Report
from dfq_plugin.tests.report.samples import full_report
from dfq_plugin.tests.tracking.samples import Recorder, config
from dfq_plugin.tracking import Point, Trackers, tracked
from dfq_plugin.tracking.figures import final_figures


class TestWatch:
    def test_only_what_is_new_is_told(self) -> None:
        recorder = Recorder()
        trackers = Trackers([recorder])
        trackers.watch({"distillation": [3.0]})
        trackers.watch({"distillation": [3.0, 2.0], "generator.margin": [5.0, 4.0, 3.0]})
        assert recorder.points == [
            Point("finetune/distillation", 3.0, 1),
            Point("finetune/distillation", 2.0, 2),
            Point("finetune/generator.margin", 5.0, 1),
            Point("finetune/generator.margin", 4.0, 2),
            Point("finetune/generator.margin", 3.0, 3),
        ]

    def test_value_that_changed_is_told_again(self) -> None:
        recorder = Recorder()
        trackers = Trackers([recorder])
        trackers.watch({"a": [3.0, 2.0]})
        trackers.watch({"a": [3.0, 1.5]})
        assert recorder.points[-1] == Point("finetune/a", 1.5, 2)
        assert len(recorder.points) == 3


def test_finish_tells_the_synthesis_and_the_final_figures_before_the_report(tmp_path: Path) -> None:
    recorder = Recorder()
    Trackers([recorder]).finish(full_report(), tmp_path)
    assert recorder.calls == ["scalars", "finish"]
    assert recorder.points[:3] == [
        Point("synthesize/intraq/batchnorm", value, step) for step, value in ((1, 4.0), (50, 0.5), (100, 0.125))
    ]
    assert Point("final/accuracy.onnx", 70.25, 0) in recorder.points


def test_final_figures_are_those_that_were_measured() -> None:
    figures = final_figures(full_report(logits_sqnr_db={"student": float("inf"), "onnx": 18.0}))
    assert figures["agreement.onnx"] == 89.5
    assert figures["baselines.noise.accuracy"] == 60.5
    assert figures["parity.mismatches"] == 0.0
    assert figures["peak_memory_bytes"] == 2048.0
    assert figures["timings_s.quantize"] == 10.0
    assert figures["logits_sqnr_db.onnx"] == 18.0
    assert not {"logits_sqnr_db.student", "kl_nats.onnx"} & set(figures)
    assert final_figures(Report()) == dict.fromkeys(
        ("census.integer", "census.float", "parity.codes_compared", "parity.mismatches", "parity.tensors"), 0.0
    )


class TestTracked:
    def test_trackers_are_closed_when_the_run_ends_well(self, tmp_path: Path) -> None:
        recorder = Recorder()
        with tracked(config(tmp_path), [recorder]) as trackers:
            trackers.watch({"a": [1.0]})
        assert recorder.calls == ["scalars", "close False"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_trackers_are_told_when_the_run_breaks_off(self, error: type[BaseException], tmp_path: Path) -> None:
        recorder = Recorder()
        with pytest.raises(error), tracked(config(tmp_path), [recorder]):
            raise error
        assert recorder.calls == ["close True"]

    def test_tracker_that_fails_is_left_out_and_the_others_go_on(self, tmp_path: Path) -> None:
        broken, recorder = Recorder(fail_at="scalars"), Recorder()
        with tracked(config(tmp_path), [broken, recorder]) as trackers:
            trackers.watch({"a": [1.0]})
            trackers.finish(full_report(), tmp_path)
        assert broken.calls == ["scalars"]
        assert recorder.calls == ["scalars", "scalars", "finish", "close False"]

    def test_nothing_is_opened_unless_it_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"looked for {name}"))
        with tracked(config(tmp_path)) as trackers:
            trackers.watch({"a": [1.0]})

    @pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
    def test_missing_package_is_named_before_the_work(
        self, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        recorder = Recorder()
        with (
            pytest.raises(ConfigError, match=rf"tracking.{package} needs the package {package}: pip install"),
            tracked(config(tmp_path, **{package: str(tmp_path)}), [recorder]),
        ):
            pytest.fail("the run began")
        assert recorder.calls == ["close True"]

    def test_place_that_cannot_be_used_is_named_before_the_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        place = str(tmp_path / "file" / "board")
        with (
            pytest.raises(InputError, match=f"tracking.tensorboard: '{place}' cannot be used"),
            tracked(config(tmp_path, tensorboard=place)),
        ):
            pytest.fail("the run began")
