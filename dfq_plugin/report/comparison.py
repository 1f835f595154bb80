"""Two reports side by side, with every difference marked: plain data, for a page or a card to lay out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dfq_plugin.report.content import Report
from dfq_plugin.report.markdown import count_float_operators, quality_rows
from dfq_plugin.report.sections import LayerRow, flatten
from dfq_plugin.report.verdict import judge
from dfq_plugin.wording import (
    UNKNOWN,
    say_bytes,
    say_count,
    say_decibels,
    say_milliseconds,
    say_nats,
    say_percent,
    say_ratio,
    say_seconds,
)

Mark = Literal["", "better", "worse", "differs"]
Better = Literal["higher", "lower", "neither"]
Pair = tuple[float | None, float | None]
SAME_TIME = 0.1  # times that differ by less than this share of the longer are the same time
SAME_DECIBELS = 0.1

# Section of a report, key in it, what to call it, how to say it, and which way is better.
Figure = tuple[str, str, str, Callable[[Any], str], Better]
KERNELS: tuple[Figure, ...] = (
    ("census", "integer", "operators on integer kernels", say_count, "neither"),
    ("census", "float", "operators in float", say_count, "lower"),
    ("parity", "codes_compared", "codes compared", say_count, "neither"),
    ("parity", "mismatches", "mismatches", say_count, "lower"),
)
SIZES: tuple[Figure, ...] = (
    ("size_bytes", "float", "float file", say_bytes, "neither"),
    ("size_bytes", "integer", "integer file", say_bytes, "lower"),
)
MEASURES: dict[str, tuple[str, Callable[[Any], str], Better]] = {
    "accuracy": ("top-1 accuracy", say_percent, "higher"),
    "agreement": ("same class as float", say_percent, "higher"),
    "kl_nats": ("KL from float", say_nats, "lower"),
    "logits_sqnr_db": ("SQNR of the logits", say_decibels, "higher"),
}


@dataclass(frozen=True)
class Row:
    """One thing in both reports.

    Attributes:
        label: What it is.
        left: Of the first report, in words.
        right: Of the second.
        mark: What the second is against the first; empty where the two are the same.
    """

    label: str
    left: str
    right: str
    mark: Mark = ""


@dataclass(frozen=True)
class Group:
    """Rows that belong together; ``warning`` says when their figures must not be set against each other."""

    title: str
    rows: tuple[Row, ...]
    warning: str = ""


def compare(left: Report, right: Report) -> list[Group]:
    """Set two reports side by side; groups without anything to say are left out."""
    groups = [
        Group("Verdict", tuple(_verdict(left, right))),
        _quality(left, right),
        Group("Integer kernels", tuple(_figures(left, right, KERNELS))),
        Group("Size and speed", (*_figures(left, right, SIZES), *_latency(left, right))),
        Group("Layers", tuple(_layers(left, right)), _warn(left, right, "sqnr_db")),
        Group("Operators in float", tuple(_float_operators(left, right))),
        Group("What it took", tuple(_cost(left, right))),
        Group("Settings that differ", tuple(_unlike(left.to_json()["config"], right.to_json()["config"]))),
        Group("Provenance that differs", tuple(_unlike(left.to_json()["provenance"], right.to_json()["provenance"]))),
    ]
    return [group for group in groups if group.rows]


def _verdict(left: Report, right: Report) -> Iterator[Row]:
    ours, theirs = judge(left), judge(right)
    yield _plain("network", left.model, right.model)
    yield _plain("deployable?", ours.answer, theirs.answer)
    yield _plain("proof", ours.headline, theirs.headline)
    yield _plain("calibrated on", left.calibration_set or UNKNOWN, right.calibration_set or UNKNOWN)


def _quality(left: Report, right: Report) -> Group:
    ours, theirs = ({row["name"]: row for row in quality_rows(report)} for report in (left, right))
    images = (left.measured_on.get("agreement", UNKNOWN), right.measured_on.get("agreement", UNKNOWN))
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        for measure, (words, say, better) in MEASURES.items():
            pair: Pair = ours.get(name, {}).get(measure), theirs.get(name, {}).get(measure)
            if pair != (None, None):
                rows.append(_number(f"{name}: {words}", pair, say, better))
    head = [_plain("measured on", *images)] if rows else []
    return Group("Accuracy and agreement", (*head, *rows), _warn(left, right, "agreement"))


def _warn(left: Report, right: Report, measured: str) -> str:
    if left.measured_on.get(measured) == right.measured_on.get(measured):
        return ""
    return "Measured on different images, so the figures say little about each other."


def _figures(left: Report, right: Report, figures: tuple[Figure, ...]) -> Iterator[Row]:
    for section, key, words, say, better in figures:
        yield _number(words, (getattr(left, section)[key], getattr(right, section)[key]), say, better)


def _latency(left: Report, right: Report) -> Iterator[Row]:
    """Times of two runs depend on what else their machines did; what can be compared is how much each run gained."""
    ours, theirs = left.latency_ms, right.latency_ms
    yield Row("float file, time per image", say_milliseconds(ours["float"]), say_milliseconds(theirs["float"]))
    yield Row("integer file, time per image", say_milliseconds(ours["integer"]), say_milliseconds(theirs["integer"]))
    gains = _gain(ours["float"], ours["integer"]), _gain(theirs["float"], theirs["integer"])
    yield _number("speed-up", gains, lambda gain: say_ratio(gain, 1.0), "higher", _share_of(gains))


def _gain(before: float | None, after: float | None) -> float | None:
    return before / after if before and after else None


def _layers(left: Report, right: Report) -> list[Row]:
    """Bits and noise of every layer, the largest change of the noise first."""
    ours, theirs = ({row["layer"]: row for row in report.layers} for report in (left, right))
    rows = []
    for layer in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(layer), theirs.get(layer)
        ratios = one and one["input_sqnr_db"], other and other["input_sqnr_db"]
        same = _bits(one) == _bits(other) and _equal(ratios, SAME_DECIBELS)
        mark: Mark = "" if same else _direction(ratios, "higher", SAME_DECIBELS) or "differs"
        rows.append((_change(ratios), Row(layer, _say_layer(one), _say_layer(other), mark)))
    return [row for _, row in sorted(rows, key=lambda entry: -entry[0])]


def _bits(row: LayerRow | None) -> tuple[int | None, int | None] | None:
    return None if row is None else (row["weight_bits"], row["input_bits"])


def _say_layer(row: LayerRow | None) -> str:
    if row is None:
        return UNKNOWN
    weight, activation = (bits or "float" for bits in (row["weight_bits"], row["input_bits"]))
    return f"W{weight} A{activation}, {say_decibels(row['input_sqnr_db'])}"


def _float_operators(left: Report, right: Report) -> Iterator[Row]:
    ours, theirs = dict(count_float_operators(left)), dict(count_float_operators(right))
    for kind, reason in dict.fromkeys([*ours, *theirs]):
        counts = ours.get((kind, reason), 0), theirs.get((kind, reason), 0)
        yield _number(f"{kind}: {reason}", counts, say_count, "lower")


def _cost(left: Report, right: Report) -> Iterator[Row]:
    totals = sum(left.timings_s.values()) or None, sum(right.timings_s.values()) or None
    yield _time("all stages", totals)
    for stage in dict.fromkeys([*left.timings_s, *right.timings_s]):
        yield _time(stage, (left.timings_s.get(stage), right.timings_s.get(stage)))
    yield _number("peak memory", (left.peak_memory_bytes, right.peak_memory_bytes), say_bytes, "neither")


def _unlike(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Row]:
    ours, theirs = dict(flatten(left, ".")), dict(flatten(right, "."))
    for name in dict.fromkeys([*ours, *theirs]):
        row = _plain(name, ours.get(name, UNKNOWN), theirs.get(name, UNKNOWN))
        if row.mark:
            yield row


def _plain(label: str, left: str, right: str) -> Row:
    return Row(label, left, right, "" if left == right else "differs")


def _number(label: str, pair: Pair, say: Callable[[Any], str], better: Better, margin: float = 0.0) -> Row:
    left, right = map(say, pair)
    # What reads the same is the same: nobody can tell 90.001 from 90.002 here.
    same = left == right or (None not in pair and _equal(pair, margin))
    return Row(label, left, right, "" if same else _direction(pair, better, margin) or "differs")


def _time(label: str, pair: Pair) -> Row:
    return _number(label, pair, say_seconds, "lower", _share_of(pair))


def _share_of(pair: Pair) -> float:
    return SAME_TIME * max(value or 0.0 for value in pair)


def _direction(pair: Pair, better: Better, margin: float) -> Mark:
    left, right = pair
    if better == "neither" or left is None or right is None or _equal(pair, margin):
        return ""
    return "better" if (right > left) == (better == "higher") else "worse"


def _equal(pair: Pair, margin: float) -> bool:
    left, right = pair
    if left is None or right is None:
        return left is right
    return left == right or abs(right - left) <= margin


def _change(pair: Pair) -> float:
    left, right = pair
    if left is None or right is None:
        return -1.0 if left is right else math.inf
    return 0.0 if left == right else abs(right - left)
