"""The answer in a few sentences: does it run on integers, is that proven, how good, how small, how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dfq_plugin.wording import say_count, say_percent, say_points, say_ratio

if TYPE_CHECKING:
    from dfq_plugin.report.content import Report

MOST = 50.0  # percent
Level = Literal["pass", "warn", "fail", "unknown"]
DEPLOYABLE, UNLIKE, UNMEASURED = "Deployable", "Proven, but mostly unlike float", "Proven, but its quality is not known"
NOT_PROVEN, NOT_DEPLOYABLE, NOT_EXAMINED = "Not proven", "Not deployable", "Not examined"


@dataclass(frozen=True)
class Verdict:
    """What to think of a result.

    Attributes:
        level: ``pass``: every quantized layer runs on integers, that is proven, and the file mostly answers as the
            float network; ``warn``: it mostly does not, or one of these things is not known; ``fail``: a quantized
            layer runs in float, or a code differs from the integer reference; ``unknown``: the exported file was not
            examined.
        answer: The level in a word or two.
        headline: The proof in one sentence.
        sentences: Quality, size and speed, as far as they were measured.
        evidence: What all this rests on.
    """

    level: Level
    answer: str
    headline: str
    sentences: tuple[str, ...]
    evidence: tuple[str, ...]


def judge(report: Report) -> Verdict:
    """Put a report into words."""
    headline = f"{_kernels(report)}{_proof(report)}."
    return Verdict(*_answer(report), headline, _sentences(report), _evidence(report))


def _answer(report: Report) -> tuple[Level, str]:
    census, parity = report.census, report.parity
    asked = census.get("products_asked", 0)
    in_float = asked - min(asked, census.get("products_integer", 0))
    if parity["mismatches"] or parity.get("logits_equal") is False or in_float:
        return "fail", NOT_DEPLOYABLE
    if not census["integer"] + census["float"]:
        return "unknown", NOT_EXAMINED
    # Without a count of the quantized layers, an operator in float may be one of them.
    if not parity["codes_compared"] or (census["float"] and not asked):
        return "warn", NOT_PROVEN
    agreement = report.agreement["onnx"]
    if agreement is None and report.accuracy["onnx"] is None:
        return "warn", UNMEASURED
    return ("warn", UNLIKE) if agreement is not None and agreement < MOST else ("pass", DEPLOYABLE)


def _kernels(report: Report) -> str:
    integer, in_float = report.census["integer"], report.census["float"]
    if not integer + in_float:
        return "The exported file was not examined"
    if asked := report.census.get("products_asked", 0):
        running = min(asked, report.census.get("products_integer", 0))
        others = in_float - (asked - running)
        rest = f", {say_count(others)} other operator{'s' if others > 1 else ''} in float" if others > 0 else ""
        return f"{_share(running, asked)} quantized layers run on integer kernels{rest}"
    return f"{_share(integer, integer + in_float)} operators run on integer kernels"


def _share(part: int, whole: int) -> str:
    return f"All {say_count(whole)}" if part == whole else f"{say_count(part)} of {say_count(whole)}"


def _proof(report: Report) -> str:
    compared, mismatches = report.parity["codes_compared"], report.parity["mismatches"]
    if not compared:
        return "; their results were not compared" if report.census["integer"] else ""
    return f", {say_count(compared)} codes compared, {say_count(mismatches)} mismatch{'es' if mismatches != 1 else ''}"


def _sentences(report: Report) -> tuple[str, ...]:
    found = [*_accuracy(report), *_against_baselines(report)]
    size, latency = report.size_bytes, report.latency_ms
    if size["float"] and size["integer"]:
        found.append(f"{say_ratio(size['float'], size['integer'])} smaller than the float file.")
    if latency["float"] and latency["integer"]:
        ratio = latency["float"] / latency["integer"]
        change = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
        found.append(f"{change} than the float file ({report.measured_on['latency_ms']}).")
    return tuple(found)


def _accuracy(report: Report) -> list[str]:
    teacher, onnx, agreement = report.accuracy["teacher"], report.accuracy["onnx"], report.agreement["onnx"]
    found = []
    if onnx is not None:
        against = f", {say_points(onnx - teacher)} against the float network" if teacher is not None else ""
        found.append(f"Top-1 accuracy {say_percent(onnx)}{against} ({report.measured_on['accuracy']}).")
    if agreement is not None:
        images = report.measured_on["agreement"]
        where = "" if onnx is not None and images == report.measured_on["accuracy"] else f" ({images})"
        found.append(f"Chooses the float network's class on {say_percent(agreement)} of the images{where}.")
    return found


def _against_baselines(report: Report) -> list[str]:
    """How good the same settings are on other calibration images, in the strictest measure that there is."""
    measure = "accuracy" if report.accuracy["onnx"] is not None else "agreement"
    what = "a top-1 accuracy" if measure == "accuracy" else "an agreement with the float network"
    rows = [(name, row["accuracy" if measure == "accuracy" else "agreement"]) for name, row in report.baselines.items()]
    listed = [f"{say_percent(value)} on {_name_images(name)}" for name, value in rows if value is not None]
    return [f"The same settings reach {what} of {' and '.join(listed)}."] if listed else []


def _name_images(baseline: str) -> str:
    return baseline if baseline == "noise" else f"real images ({baseline})"


def _evidence(report: Report) -> tuple[str, ...]:
    found = []
    if report.has_numbers("agreement") or report.has_numbers("accuracy"):
        images = report.measured_on["agreement" if report.has_numbers("agreement") else "accuracy"]
        found.append(
            f"Quality: {images}. None of them calibrated the network; that was done on {report.calibration_set}."
        )
    else:
        found.append("Quality: not measured, there were no images for it.")
    if report.parity["codes_compared"]:
        images = report.measured_on["parity"]
        found.append(f"Codes: onnxruntime against a reference that does not use it, on {images}.")
    return tuple(found)
