"""Which curves of a report go into one plot: those that share a scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dfq_plugin.report.content import Report
from dfq_plugin.report.sections import Number, SynthesisCurves

GENERATOR = "generator."  # before the names of what an online provider watches while the student learns
LOSS = "loss."
TOTAL = "distillation"
BATCHNORM = "batchnorm"
ADAPTABILITY = "adaptability"  # 0..1, no loss
REMARK = "0: float network and student differ in nothing that points to a class; 1: they differ in one class alone."
Points = tuple[list[float], list[Number]]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: What it shows.
        curves: By name, the places and the values.
        xlabel: What the places count.
        remark: What a reader may not know.
    """

    title: str
    curves: Mapping[str, Points]
    xlabel: str
    remark: str = ""


def synthesis_panels(report: Report) -> list[Panel]:
    """The losses of each provider while it made the images, and what else it watched."""
    several = len(report.synthesis_curves) > 1
    return [panel for curves in report.synthesis_curves for panel in _of_provider(curves, several=several)]


def finetune_panels(report: Report) -> list[Panel]:
    """The losses of the student, those of a generator that learned beside it, and the adaptability of its images."""
    curves = {name: (_epochs(len(values)), list(values)) for name, values in report.losses.items() if values}
    of_generator = {name.removeprefix(GENERATOR): points for name, points in curves.items() if _is_generator(name)}
    own = {name.removeprefix(LOSS): points for name, points in curves.items() if not _is_generator(name)}
    generator_epoch = "epoch, warm-up included"
    return [
        *_panel("Losses of the student", own, "epoch"),
        *_split("Losses of the generator", "Adaptability of its images", of_generator, generator_epoch),
    ]


def compared_panels(left: Report, right: Report) -> list[Panel]:
    """The curves that two runs can both have: the loss of the BatchNorm statistics, and that of fine-tuning."""
    matched: dict[str, Points] = {}
    tuned: dict[str, Points] = {}
    for letter, report in (("A", left), ("B", right)):
        for curves in report.synthesis_curves:
            if values := curves["values"].get(BATCHNORM):
                matched[f"{letter}, {curves['provider']}"] = [float(step) for step in curves["at"]], list(values)
        if losses := report.losses.get(TOTAL):
            tuned[letter] = _epochs(len(losses)), list(losses)
    return [
        *_panel("BatchNorm loss of the images, in each provider's own unit", matched, "step"),
        *_panel("Distillation loss of fine-tuning", tuned, "epoch"),
    ]


def _of_provider(curves: SynthesisCurves, *, several: bool) -> Iterator[Panel]:
    place = [float(step) for step in curves["at"]]
    points = {name: (place, list(values)) for name, values in curves["values"].items()}
    whose = f" ({curves['provider']})" if several else ""
    yield from _split(f"Losses of the images{whose}", f"Adaptability of the images{whose}", points, "step")


def _split(losses: str, adaptability: str, points: Mapping[str, Points], xlabel: str) -> Iterator[Panel]:
    yield from _panel(losses, {name: series for name, series in points.items() if name != ADAPTABILITY}, xlabel)
    watched = {name: series for name, series in points.items() if name == ADAPTABILITY}
    yield from _panel(adaptability, watched, xlabel, REMARK)


def _panel(title: str, curves: Mapping[str, Points], xlabel: str, remark: str = "") -> Iterator[Panel]:
    if curves:
        yield Panel(title, curves, xlabel, remark)


def _is_generator(name: str) -> bool:
    return name.startswith(GENERATOR)


def _epochs(count: int) -> list[float]:
    return [float(epoch) for epoch in range(1, count + 1)]
