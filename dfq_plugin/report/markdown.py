"""A short model card in Markdown, to paste beside the exported file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dfq_plugin.report.content import Report
from dfq_plugin.report.verdict import judge
from dfq_plugin.wording import (
    say_bytes,
    say_count,
    say_decibels,
    say_milliseconds,
    say_nats,
    say_percent,
    say_ratio,
    say_seconds,
)

MEASURES = ("accuracy", "agreement", "kl_nats", "logits_sqnr_db")
WORST_TENSORS = 5
MADE_WITH = ("processor", "python", "torch", "nncf", "onnxruntime", "dfq-plugin")


def render_markdown(report: Report) -> str:
    """Write the card: verdict, quality, layers, synthesis, float operators, size and speed, where it comes from."""
    verdict = judge(report)
    blocks = [
        f"# {plain_text(report.model) or 'Quantized network'}",
        f"**{verdict.answer}. {plain_text(verdict.headline)}**",
    ]
    blocks += [plain_text(sentence) for sentence in (*verdict.sentences, *verdict.evidence)]
    blocks += [block for section in _SECTIONS for block in section(report)]
    return "\n\n".join(blocks) + "\n"


def _quality(report: Report) -> Iterator[str]:
    if not (report.has_numbers("accuracy") or report.has_numbers("agreement")):
        return
    yield "## Quality"
    rows = [
        [row["name"], say_percent(row["accuracy"]), say_percent(row["agreement"]), say_nats(row["kl_nats"])]
        for row in quality_rows(report)
    ]
    yield table(["", "top-1 accuracy", "same class as float", "KL from float"], rows)
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
    yield table(["", "file", "time per image"], rows)
    yield from _measured_on(report, "latency_ms")


def _integer_kernels(report: Report) -> Iterator[str]:
    if report.has_numbers("parity"):
        yield "## Proof"
        tensors = say_count(report.parity["tensors"])
        yield f"Compared code by code with the integer reference, on {tensors} tensors."
        yield from _measured_on(report, "parity")
    if report.evidence:
        yield plain_text(report.evidence)
    if report.census["float_nodes"]:
        yield "## Operators that run in float"
        rows = [[kind, reason, say_count(count)] for (kind, reason), count in count_float_operators(report)]
        yield table(["type", "reason", "how many"], rows)


def _bits(report: Report) -> Iterator[str]:
    if report.bits:
        yield "## Bits"
        rows = [[kind, str(bits), say_count(count)] for (kind, bits), count in count_bits(report)]
        yield table(["quantizers of", "bits", "how many"], rows)
    known = [(name, value) for name, value in report.sqnr_db if value is not None]
    if known:
        worst = sorted(known, key=lambda row: row[1])[:WORST_TENSORS]
        yield table(["noisiest tensors", "SQNR"], [[name, say_decibels(value)] for name, value in worst])
        yield from _measured_on(report, "sqnr_db")


def _synthesis(report: Report) -> Iterator[str]:
    rows = [
        [f"{curves['provider']}: {name}", _say_change(values)]
        for curves in report.synthesis_curves
        for name, values in curves["values"].items()
    ]
    rows += [[f"{kind}: distance from the BatchNorm statistics", value] for kind, value in match_means(report)]
    rows += [[f"fine-tuning: {name}", _say_change(values)] for name, values in report.losses.items() if values]
    if rows:
        yield "## Synthesis and fine-tuning"
        yield table(["", "first → last"], rows)


def _say_change(values: Sequence[float | None]) -> str:
    first, last = ("–" if value is None else f"{value:.4g}" for value in (values[0], values[-1]))  # noqa: RUF001
    return f"{first} → {last}"


def _origin(report: Report) -> Iterator[str]:
    yield "## Origin"
    rows = [["calibrated on", report.calibration_set]] if report.calibration_set else []
    rows += [[name, str(value)] for name, value in report.provenance.items() if isinstance(value, str | int | float)]
    machine = report.provenance.get("machine")
    if isinstance(machine, Mapping):
        rows.append(["made with", ", ".join(f"{name} {value}" for name, value in machine.items() if name in MADE_WITH)])
    if report.timings_s:
        rows.append(["time", say_seconds(sum(report.timings_s.values()))])
    if report.peak_memory_bytes is not None:
        rows.append(["peak memory", say_bytes(report.peak_memory_bytes)])
    yield table(["", ""], rows)
    if report.command:
        yield f"To do it again: `{report.command}`"


def _notes(report: Report) -> Iterator[str]:
    if report.notes:
        yield "## Notes"
        yield "\n".join(f"- {plain_text(note)}" for note in report.notes)


_SECTIONS = (_quality, _bits, _synthesis, _integer_kernels, _size_and_speed, _origin, _notes)


def quality_rows(report: Report) -> list[dict[str, Any]]:
    """Float network, data-free student, file, and baselines: what each is called, and its figures, where it has any.

    ``compared`` says whether a row is compared with the float network, as all but its own are.
    """
    names = {"teacher": "Float", "student": "Data-free student (PyTorch)", "onnx": "ONNX file (onnxruntime)"}
    measures: dict[str, Mapping[str, Any]] = {name: getattr(report, name) for name in MEASURES}
    rows: list[dict[str, Any]] = [
        {"name": name, "compared": key != "teacher", **{m: measures[m].get(key) for m in MEASURES}}
        for key, name in names.items()
    ]
    rows += [
        {
            "name": f"Calibrated on {row['images']} images: {name}",
            "compared": True,
            **{m: row[m] for m in MEASURES},  # type: ignore[literal-required]
        }
        for name, row in report.baselines.items()
    ]
    return [row for row in rows if any(row[measure] is not None for measure in MEASURES)]


def match_means(report: Report) -> list[tuple[str, str]]:
    """How far each kind of images is from the BatchNorm statistics, on average over the layers."""
    kinds = {"noise": "noise", "synthetic": "the synthetic images", "real": "real images"}
    found = []
    for kind, words in kinds.items():
        values = [row[kind] for row in report.batchnorm_match if row[kind] is not None]  # type: ignore[literal-required]
        if values:
            found.append((words, f"{sum(values) / len(values):.3g}"))
    return found


def count_bits(report: Report) -> list[tuple[tuple[str, int], int]]:
    """Count the quantizers of each kind and number of bits, as ``((kind, bits), count)`` in that order."""
    return sorted(Counter((row["kind"], row["applied"]) for row in report.bits).items())


def count_float_operators(report: Report) -> list[tuple[tuple[str, str], int]]:
    """Count the operators in float of each type and reason, as ``((type, reason), count)``, the most first."""
    return Counter((node["op_type"], node["reason"]) for node in report.census["float_nodes"]).most_common()


def _measured_on(report: Report, *sections: str) -> Iterator[str]:
    for section in sections:
        if report.has_numbers(section):
            label = {"latency_ms": "Latency", "sqnr_db": "Noise"}.get(section, section.capitalize())
            yield f"{label} measured on: {plain_text(report.measured_on[section])}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain_text(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def plain_text(words: str) -> str:
    """One line, and no HTML: a card is often rendered on a web page."""
    return " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
