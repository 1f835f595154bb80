"""A run in a real MLflow store, a folder, read back with MLflow's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfq_plugin.errors import InputError
from dfq_plugin.report import write_report
from dfq_plugin.tests.report.samples import full_report
from dfq_plugin.tests.tracking.samples import config
from dfq_plugin.tracking import tracked

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _folder_as_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want to be asked for it
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def runs_in(folder: Path, experiment: str) -> tuple[Any, Iterator[Any]]:
    client = mlflow.MlflowClient(tracking_uri=folder.as_uri())
    place = client.get_experiment_by_name(experiment)
    return client, client.search_runs([place.experiment_id])


def test_settings_curves_figures_and_report_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfq_plugin.report.html.in_both_looks", lambda _draw: {"wide": "", "narrow": ""})
    store = tmp_path / "store"
    job = config(tmp_path / "tiny", mlflow=store.as_uri(), experiment="mine")
    with tracked(job) as trackers:
        trackers.watch({"distillation": [3.0, 0.5]})
        write_report(full_report(), tmp_path / "tiny")
        trackers.finish(full_report(), tmp_path / "tiny")
    client, (run,) = runs_in(store, "mine")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params["model.source"] == "python:some.module:factory"
    history = client.get_metric_history(run.info.run_id, "finetune/distillation")
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.0), (2, 0.5)]
    assert run.data.metrics["final/accuracy.onnx"] == 70.25
    assert run.data.metrics["final/baselines.folder_photos.accuracy"] == 72.0
    artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"report.html", "report.md", "report.json"}


def test_run_that_breaks_off_is_marked_as_failed(tmp_path: Path) -> None:
    job = config(tmp_path / "tiny", mlflow=tmp_path.as_uri())
    with pytest.raises(KeyboardInterrupt), tracked(job):
        raise KeyboardInterrupt
    _, (run,) = runs_in(tmp_path, "dfq_plugin")
    assert run.info.status == "FAILED"


def test_more_points_than_mlflow_takes_in_a_call_are_all_kept(tmp_path: Path) -> None:
    with tracked(config(tmp_path / "tiny", mlflow=tmp_path.as_uri())) as trackers:
        trackers.watch({"a": [float(value) for value in range(1200)]})
    client, (run,) = runs_in(tmp_path, "dfq_plugin")
    assert len(client.get_metric_history(run.info.run_id, "finetune/a")) == 1200


def test_address_that_is_none_is_refused_before_the_work(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"tracking.mlflow: 'nosuch://place' cannot be used"),
        tracked(config(tmp_path, mlflow="nosuch://place")),
    ):
        pytest.fail("the run began")
