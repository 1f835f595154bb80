"""What hears how a run goes, and how it is told."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from dfq_plugin.config import Config
from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.report import Report
from dfq_plugin.tracking.figures import final_figures

logger = logging.getLogger("nncf.dfq_plugin.tracking")


class Point(NamedTuple):
    """One value of one curve: ``name`` is like "finetune/distillation", ``step`` counts epochs or steps."""

    name: str
    value: float
    step: int


class Tracker(Protocol):
    """A place to send a run to. An error in one of these methods is logged, and ends the tracking but not the run."""

    def scalars(self, points: Sequence[Point]) -> None:
        """Take points of curves: one after another while the student learns, whole curves and figures at the end."""

    def finish(self, report: Report, folder: Path) -> None:
        """Take the report of a run that came to its end; its files lie in the folder."""

    def close(self, *, failed: bool) -> None:
        """Let go; always the last call. ``failed`` says that the run broke off."""


class Trackers:
    """All trackers of a run as one; none is fine."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._told: dict[str, tuple[float, ...]] = {}

    def add(self, tracker: Tracker) -> None:
        """Take one more."""
        self._trackers.append(tracker)

    def watch(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Tell what is new in the curves of fine-tuning.

        Args:
            curves: by name, every value so far, one an epoch. A run that goes on from a checkpoint tells those from
                before as well, so that what is tracked is whole.
        """
        points = []
        for name, values in curves.items():
            told = self._told.get(name, ())
            points += [
                Point(f"finetune/{name}", value, step)
                for step, value in enumerate(values, start=1)
                if step > len(told) or value != told[step - 1]
            ]
            self._told[name] = tuple(values)
        self._each(lambda tracker: tracker.scalars(points))

    def finish(self, report: Report, folder: Path) -> None:
        """Tell how the images were made, the final figures, and where the report is."""
        points = [
            Point(f"synthesize/{curves['provider']}/{name}", value, step)
            for curves in report.synthesis_curves
            for name, values in curves["values"].items()
            for step, value in zip(curves["at"], values, strict=True)
            if value is not None
        ]
        points += [Point(f"final/{name}", value, 0) for name, value in final_figures(report).items()]
        self._each(lambda tracker: tracker.scalars(points))
        self._each(lambda tracker: tracker.finish(report, folder))

    def close(self, *, failed: bool) -> None:
        """Let all of them go."""
        self._each(lambda tracker: tracker.close(failed=failed))

    def _each(self, tell: Callable[[Tracker], object]) -> None:
        self._trackers = [tracker for tracker in self._trackers if _succeeds(tell, tracker)]


@contextmanager
def tracked(config: Config, others: Sequence[Tracker] = ()) -> Iterator[Trackers]:
    """Open the trackers that the config names, and close them when the block ends, well or not.

    Args:
        config: the whole job; a run is called as its output folder.
        others: trackers of your own.

    Raises:
        ConfigError: a package is missing that the config needs.
        InputError: a place cannot be used.
    """
    trackers = Trackers(others)
    try:
        for tracker in _open(config):
            trackers.add(tracker)
        yield trackers
    except BaseException:
        trackers.close(failed=True)
        raise
    trackers.close(failed=False)


def _open(config: Config) -> Iterator[Tracker]:
    settings, name = config.tracking, Path(config.output_dir).name or "run"
    if settings.tensorboard is not None:
        _require("tensorboard")
        from dfq_plugin.tracking.tensorboard_tracker import TensorBoardTracker  # noqa: PLC0415 - an extra

        folder = Path(settings.tensorboard).expanduser() / name
        yield _opened("tensorboard", settings.tensorboard, lambda: TensorBoardTracker(folder))
    if settings.mlflow is not None:
        _require("mlflow")
        from dfq_plugin.tracking.mlflow_tracker import MLflowTracker  # noqa: PLC0415 - an extra

        address, experiment, content = settings.mlflow, settings.experiment, config.resolved()
        yield _opened("mlflow", address, lambda: MLflowTracker(address, experiment, name, content))


def _opened(setting: str, place: str, make: Callable[[], Tracker]) -> Tracker:
    try:
        return make()
    except Exception as error:  # whatever a server, a file system or a database may say
        msg = f"tracking.{setting}: '{place}' cannot be used: {error}"
        raise InputError(msg) from error


def _succeeds(tell: Callable[[Tracker], object], tracker: Tracker) -> bool:
    try:
        tell(tracker)
    except Exception as error:  # noqa: BLE001 - a server that is gone must not cost hours of work
        logger.warning("%s tracks no longer: %s: %s", type(tracker).__name__, type(error).__name__, error)
        return False
    return True


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        msg = f"tracking.{package} needs the package {package}: pip install 'dfq-plugin[tracking]'."
        raise ConfigError(msg)
