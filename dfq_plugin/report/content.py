"""What a report says: plain data under fixed names, refused when a number does not say where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from dfq_plugin.errors import ConfigError
from dfq_plugin.report.sections import (
    FIXED_SECTIONS,
    Accuracy,
    AgainstTeacher,
    BaselineRow,
    BitsRow,
    Census,
    FloatAndInteger,
    FloatNode,
    LayerRow,
    MatchRow,
    Parity,
    SynthesisCurves,
    check_keys,
    no_accuracy,
    no_census,
    no_comparison,
    no_pair,
    no_parity,
)
from dfq_plugin.report.verdict import judge

FORMAT = 1  # of report.json; raised when a key changes its meaning
# Sections whose numbers depend on images, with the key of measured_on that says on which.
MEASURED = {
    "accuracy": "accuracy",
    "agreement": "agreement",
    "kl_nats": "agreement",
    "logits_sqnr_db": "agreement",
    "baselines": "agreement",
    "parity": "parity",
    "latency_ms": "latency_ms",
    "sqnr_db": "sqnr_db",
    "batchnorm_match": "batchnorm_match",
}
QUALITY = ("accuracy", "agreement", "kl_nats", "logits_sqnr_db", "baselines")  # never measured on the calibration set


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is known about one quantized network; sections that were not made keep their empty default.

    Attributes:
        model: What was quantized, in one line.
        calibration_set: The images that calibrated the student, in the words that ``measured_on`` would use for them.
        accuracy: Top-1 of the teacher, the student and the exported file, in percent.
        agreement: Images whose top-1 class is the teacher's, in percent.
        kl_nats: Mean KL divergence from the teacher's class probabilities.
        logits_sqnr_db: Signal to noise ratio of the logits.
        baselines: The same settings calibrated on other images, by name, such as "noise" or "folder:photos".
        census: What onnxruntime really runs.
        parity: The comparison of the exported file with the integer reference.
        latency_ms: Milliseconds per image.
        size_bytes: Size of the files.
        bits: One row per quantizer.
        layers: One row per layer with weights.
        measured_on: The images that accuracy, agreement (with kl_nats, logits_sqnr_db and baselines), parity,
            latency_ms, sqnr_db and batchnorm_match were measured on, each in words.
        sqnr_db: Signal to quantization noise per layer, in execution order; infinite where the two are equal.
        losses: Fine-tuning history: one series of values per loss, in order of time.
        synthesis_curves: How the losses of each provider went while the images were made.
        batchnorm_match: How near the images come to the BatchNorm statistics of the teacher, layer by layer.
        timings_s: Seconds per stage.
        peak_memory_bytes: Most memory that the run held at one time.
        provenance: Versions, seeds, digests, dates.
        config: The resolved settings.
        command: What to type to do it all again.
        evidence: How the numbers were obtained, in sentences.
        notes: Anything a reader should know: warnings, approximations.

    Raises:
        ConfigError: A section has other keys than it should, a percentage is out of range, a number does not say on
            which images it was measured, or accuracy or agreement was measured on the calibration set.
    """

    model: str = ""
    calibration_set: str = ""
    accuracy: Accuracy = field(default_factory=no_accuracy)
    agreement: AgainstTeacher = field(default_factory=no_comparison)
    kl_nats: AgainstTeacher = field(default_factory=no_comparison)
    logits_sqnr_db: AgainstTeacher = field(default_factory=no_comparison)
    baselines: Mapping[str, BaselineRow] = field(default_factory=dict)
    census: Census = field(default_factory=no_census)
    parity: Parity = field(default_factory=no_parity)
    latency_ms: FloatAndInteger = field(default_factory=no_pair)
    size_bytes: FloatAndInteger = field(default_factory=no_pair)
    bits: Sequence[BitsRow] = ()
    layers: Sequence[LayerRow] = ()
    measured_on: Mapping[str, str] = field(default_factory=dict)
    sqnr_db: Sequence[tuple[str, float | None]] = ()
    losses: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    synthesis_curves: Sequence[SynthesisCurves] = ()
    batchnorm_match: Sequence[MatchRow] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    evidence: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, kind in FIXED_SECTIONS.items():
            check_keys(name, getattr(self, name), kind)
        for name, rows, kind in (
            ("bits", self.bits, BitsRow),
            ("layers", self.layers, LayerRow),
            ("float_nodes", self.census["float_nodes"], FloatNode),
            ("baselines", self.baselines.values(), BaselineRow),
            ("synthesis_curves", self.synthesis_curves, SynthesisCurves),
            ("batchnorm_match", self.batchnorm_match, MatchRow),
        ):
            for row in rows:
                check_keys(name, row, kind)
        for name in ("accuracy", "agreement"):
            _check_percentages(name, getattr(self, name))
        _check_percentages("baselines", {key: row["accuracy"] for key, row in self.baselines.items()})
        _check_percentages("baselines", {key: row["agreement"] for key, row in self.baselines.items()})
        _check_measured_on(self)

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain data, ready for ``json.dumps``, with the verdict that follows from it.

        Numbers that are not finite become null, except an infinite SQNR (no error at all), which becomes "inf".
        """
        content = {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}
        content["sqnr_db"] = [[layer, _decibels(value)] for layer, value in self.sqnr_db]
        content["layers"] = [{**row, "input_sqnr_db": _decibels(row["input_sqnr_db"])} for row in self.layers]
        return {"format": FORMAT, "verdict": _plain(asdict(judge(self))), **content}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Read a report back from the content of a ``report.json``.

        Raises:
            ConfigError: The data has keys that a report does not have, or is of another format.
        """
        content = {name: value for name, value in data.items() if name != "verdict"}  # it follows from the rest
        written = content.pop("format", FORMAT)
        if written != FORMAT:
            msg = f"report.json is of format {written}; this version reads format {FORMAT}. Make the report again."
            raise ConfigError(msg)
        unknown = sorted(content.keys() - {entry.name for entry in fields(cls)})
        if unknown:
            msg = f"report.json has keys that a report does not have: {', '.join(unknown)}."
            raise ConfigError(msg)
        content["sqnr_db"] = [(layer, _from_decibels(value)) for layer, value in content.get("sqnr_db", ())]
        content["layers"] = [
            {**row, "input_sqnr_db": _from_decibels(row["input_sqnr_db"])} for row in content.get("layers", ())
        ]
        return cls(**content)

    def has_numbers(self, section: str) -> bool:
        """Say whether anything was measured for this section."""
        value = getattr(self, section)
        if section == "parity":
            return bool(self.parity["codes_compared"])
        if isinstance(value, Mapping):
            return any(number is not None for number in value.values())
        return bool(value)


def _decibels(value: float | None) -> float | str | None:
    return "inf" if value == math.inf else None if value is None or not math.isfinite(value) else float(value)


def _from_decibels(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def _check_percentages(name: str, section: Mapping[str, Any]) -> None:
    for key, percent in section.items():
        if percent is not None and not 0 <= percent <= 100:
            msg = f"Report: {name}.{key} must be a percentage in 0..100, got {percent}."
            raise ConfigError(msg)


def _check_measured_on(report: Report) -> None:
    keys = sorted(set(MEASURED.values()))
    unknown = sorted(set(report.measured_on) - set(keys))
    if unknown:
        msg = f"Report: measured_on has no section {', '.join(unknown)}; the sections are {', '.join(keys)}."
        raise ConfigError(msg)
    for name, key in MEASURED.items():
        if not report.has_numbers(name):
            continue
        if not report.measured_on.get(key, "").strip():
            msg = f"Report: {name} has numbers, but measured_on['{key}'] does not say on which images."
            raise ConfigError(msg)
        if name in QUALITY:
            _check_held_out(name, report.measured_on[key], report.calibration_set)


def _check_held_out(name: str, measured_on: str, calibration_set: str) -> None:
    if not calibration_set.strip():
        msg = f"Report: {name} has numbers, so calibration_set must say which images the student was calibrated on."
        raise ConfigError(msg)
    if _same_words(measured_on, calibration_set):
        msg = f"Report: {name} was measured on the calibration set itself ({calibration_set}), "
        msg += "which says nothing about other images. Measure on held-out images, or leave the figure out."
        raise ConfigError(msg)


def _same_words(left: str, right: str) -> bool:
    return left.casefold().split() == right.casefold().split()


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything in, JSON out
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if callable(getattr(value, "tolist", None)):  # numpy numbers and arrays, torch tensors
        return _plain(value.tolist())
    return _plain_scalar(value)


def _plain_scalar(value: object) -> bool | int | float | str | None:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)  # a report is written after hours of work: an odd value must not lose it
