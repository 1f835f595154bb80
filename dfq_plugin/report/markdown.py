"""A short model card in Markdown, to paste beside the exported file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from dfq_plugin.report.content import Report
from dfq_plugin.report.verdict import judge
from dfq_plugin.wording import (
    say_bytes,
    say_count,
    say_milliseconds,
    say_nats,
    say_percent,
    say_ratio,
    say_seconds,
)


def render_markdown(report: Report) -> str:
    """Write the card: verdict, quality, size and speed, float operators, bits, where it comes from."""
    verdict = judge(report)
    blocks = [f"# {_text(report.model) or 'Quantized network'}", f"**{_text(verdict.headline)}**"]
    blocks += [_text(sentence) for sentence in verdict.sentences]
    blocks += [block for section in _SECTIONS for block in section(report)]
    return "\n\n".join(blocks) + "\n"


def _quality(report: Report) -> Iterator[str]:
    if not (report.has_numbers("accuracy") or report.has_numbers("agreement")):
        return
    yield "## Quality"
    accuracy, agreement, divergence = report.accuracy, report.agreement, report.kl_nats
    rows = [
        ["teacher (float)", say_percent(accuracy["teacher"]), "", ""],
        [
            "student",
            say_percent(accuracy["student"]),
            say_percent(agreement["student"]),
            say_nats(divergence["student"]),
        ],
        ["ONNX file", say_percent(accuracy["onnx"]), say_percent(agreement["onnx"]), say_nats(divergence["onnx"])],
    ]
    yield _table(["", "top-1 accuracy", "agreement with the teacher", "KL divergence from it"], rows)
    yield from _measured_on(report, "accuracy", "agreement")


def _size_and_speed(report: Report) -> Iterator[str]:
    size, latency = report.size_bytes, report.latency_ms
    if not (report.has_numbers("size_bytes") or report.has_numbers("latency_ms")):
        return
    yield "## Size and speed"
    rows = [
        ["float", say_bytes(size["float"]), say_milliseconds(latency["float"])],
        ["integer", say_bytes(size["integer"]), say_milliseconds(latency["integer"])],
        ["ratio", say_ratio(size["float"], size["integer"]), say_ratio(latency["float"], latency["integer"])],
    ]
    yield _table(["", "file", "time per image"], rows)
    yield from _measured_on(report, "latency_ms")


def _integer_kernels(report: Report) -> Iterator[str]:
    if report.has_numbers("parity"):
        yield "## Proof"
        tensors = say_count(report.parity["tensors"])
        yield f"Compared code by code with the integer reference, on {tensors} tensors."
        yield from _measured_on(report, "parity")
    if report.evidence:
        yield _text(report.evidence)
    if report.census["float_nodes"]:
        yield "## Operators that run in float"
        rows = [[node["name"], node["op_type"], node["reason"]] for node in report.census["float_nodes"]]
        yield _table(["operator", "type", "reason"], rows)


def _bits(report: Report) -> Iterator[str]:
    if report.bits:
        yield "## Bits"
        rows = [[kind, str(bits), say_count(count)] for (kind, bits), count in count_bits(report)]
        yield _table(["quantizers of", "bits", "how many"], rows)


def _origin(report: Report) -> Iterator[str]:
    yield "## Origin"
    rows = [["calibrated on", report.calibration_set]] if report.calibration_set else []
    rows += [[name, str(value)] for name, value in report.provenance.items() if isinstance(value, str | int | float)]
    if report.timings_s:
        rows.append(["time", say_seconds(sum(report.timings_s.values()))])
    if report.peak_memory_bytes is not None:
        rows.append(["peak memory", say_bytes(report.peak_memory_bytes)])
    yield _table(["", ""], rows)


def _notes(report: Report) -> Iterator[str]:
    if report.notes:
        yield "## Notes"
        yield "\n".join(f"- {_text(note)}" for note in report.notes)


_SECTIONS = (_quality, _size_and_speed, _integer_kernels, _bits, _origin, _notes)


def count_bits(report: Report) -> list[tuple[tuple[str, int], int]]:
    """Count the quantizers of each kind and number of bits, as ``((kind, bits), count)`` in that order."""
    return sorted(Counter((row["kind"], row["applied"]) for row in report.bits).items())


def _measured_on(report: Report, *sections: str) -> Iterator[str]:
    for section in sections:
        if report.has_numbers(section):
            label = section.removesuffix("_ms")
            yield f"{label.capitalize()} measured on: {_text(report.measured_on[section])}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_text(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(words: str) -> str:
    # One line, and no HTML: a card is often rendered on a web page.
    return " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
