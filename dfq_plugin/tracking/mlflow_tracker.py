"""Curves, figures, settings and the report for MLflow; the model itself stays where it is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from dfq_plugin.report import Report
from dfq_plugin.report.sections import flatten
from dfq_plugin.tracking.trackers import Point

ARTIFACTS = ("report.html", "report.md", "report.json", "config.json")
METRICS_A_CALL, PARAMS_A_CALL, VALUE_LENGTH = 1000, 100, 500  # MLflow's own limits, the last of older servers
NOT_IN_A_NAME = re.compile(r"[^\w.\- /]")

Item = TypeVar("Item")


class MLflowTracker:
    """Keep one MLflow run, without touching the process's own active run or tracking address.

    Args:
        uri: Where MLflow keeps its runs: a server, a database or a folder.
        experiment: Made when there is none of this name.
        name: Of the run.
        settings: What becomes the run's parameters.
    """

    def __init__(self, uri: str, experiment: str, name: str, settings: Mapping[str, Any]) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._run = self._client.create_run(place, run_name=name).info.run_id
        params = [Param(_named(key), value[:VALUE_LENGTH]) for key, value in flatten(settings, ".")]
        for part in _parts(params, PARAMS_A_CALL):
            self._client.log_batch(self._run, params=part)

    def scalars(self, points: Sequence[Point]) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(_named(name), value, now, step) for name, value, step in points]
        for part in _parts(metrics, METRICS_A_CALL):
            self._client.log_batch(self._run, metrics=part)

    def finish(self, report: Report, folder: Path) -> None:  # noqa: ARG002 - its files hold it
        for name in ARTIFACTS:
            if (folder / name).is_file():
                self._client.log_artifact(self._run, str(folder / name))

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _named(name: str) -> str:
    return NOT_IN_A_NAME.sub("_", name)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
