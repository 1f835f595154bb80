"""The report as one HTML file that needs nothing else: styles inside, pictures inside, no script, no network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dfq_plugin import wording
from dfq_plugin.report.contact_sheet import count_shown, draw_contact_sheet
from dfq_plugin.report.content import MEASURED, Report
from dfq_plugin.report.curves import Panel, finetune_panels, synthesis_panels
from dfq_plugin.report.figures import draw_curves, draw_match, draw_sqnr
from dfq_plugin.report.markdown import count_bits, count_float_operators, match_means, quality_rows
from dfq_plugin.report.pages import in_both_looks, template, uri
from dfq_plugin.report.pictures import Pictures
from dfq_plugin.report.sections import flatten

SHOWN_ROWS = 12  # of a table; the rest is folded away
TITLES = {
    "quality": "Accuracy",
    "layers": "Layers",
    "images": "Images",
    "synthesis": "Synthesis",
    "finetune": "Fine-tuning",
    "kernels": "Kernels",
    "speed": "Size and speed",
    "notes": "Notes",
    "timings": "Time",
    "repeat": "Do it again",
    "provenance": "Provenance",
}


def render_html(report: Report, pictures: Pictures | None = None) -> str:
    """Lay the report out as a self-contained page for light and dark screens, wide and narrow, and for paper.

    Args:
        report: What to say.
        pictures: Synthetic images; None leaves them out.
    """
    data = report.to_json()
    synthesis, finetune = synthesis_panels(report), finetune_panels(report)
    ids = list(_sections(report, pictures))
    return template("report.html.j2").render(
        report=data,
        ids=ids,
        contents=[(name, TITLES[name]) for name in ids],
        tiles=list(_tiles(report)),
        measured_on={key: report.measured_on[key] for section, key in MEASURED.items() if report.has_numbers(section)},
        has={section: report.has_numbers(section) for section in MEASURED},
        quality=quality_rows(report),
        bits_summary=[(kind, bits, count) for (kind, bits), count in count_bits(report)],
        layers=sorted(report.layers, key=lambda row: _noisiest_first(row["input_sqnr_db"])),
        shown=SHOWN_ROWS,
        float_operators=count_float_operators(report),
        quantizers=_quantizers(report),
        sqnr=in_both_looks(lambda look: draw_sqnr({"": report.sqnr_db}, look)) if report.sqnr_db else None,
        sheet=sheet_of(pictures),
        sheet_caption=_sheet_caption(pictures, report.calibration_set),
        synthesis=drawn(synthesis),
        finetune=drawn(finetune),
        match=in_both_looks(lambda look: draw_match(report.batchnorm_match, look)) if report.batchnorm_match else None,
        match_means=", ".join(f"{value} for {kind}" for kind, value in match_means(report)),
        longest_stage=max(report.timings_s.values(), default=0.0),
        config=json.dumps(data["config"], indent=2),
        provenance=list(flatten(data["provenance"], " › ")),  # noqa: RUF001 - a typographic arrow
    )


def _sections(report: Report, pictures: Pictures | None) -> Iterator[str]:
    """Which sections have something to say, in the order of the page."""
    there = {
        "quality": any(map(report.has_numbers, ("accuracy", "agreement", "kl_nats", "logits_sqnr_db"))),
        "layers": report.bits or report.layers or report.sqnr_db,
        "images": pictures is not None and len(pictures.images),
        "synthesis": report.synthesis_curves or report.batchnorm_match,
        "finetune": report.losses,
        "kernels": True,
        "speed": report.has_numbers("latency_ms") or report.has_numbers("size_bytes"),
        "notes": report.notes,
        "timings": report.timings_s,
        "repeat": report.command or report.config,
        "provenance": report.provenance,
    }
    return (name for name in TITLES if there[name])


def _tiles(report: Report) -> Iterator[tuple[str, str, str]]:
    """Give the figures at the head of the page as (label, number, remark), as far as they are known."""
    accuracy, agreement, census, parity = report.accuracy, report.agreement, report.census, report.parity
    if accuracy["onnx"] is not None:
        teacher = accuracy["teacher"]
        remark = "" if teacher is None else f"{wording.say_points(accuracy['onnx'] - teacher)} against float"
        yield "Top-1 accuracy", wording.say_percent(accuracy["onnx"]), remark
    if agreement["onnx"] is not None:
        yield "Agreement", wording.say_percent(agreement["onnx"]), "same class as float"
    if total := census["integer"] + census["float"]:
        yield "Integer operators", f"{census['integer']:,} / {total:,}", f"{census['float']:,} in float"
    if report.has_numbers("parity"):
        yield "Mismatches", wording.say_count(parity["mismatches"]), f"of {parity['codes_compared']:,} codes"
    size, latency = report.size_bytes, report.latency_ms
    if size["float"] and size["integer"]:
        change = f"{wording.say_bytes(size['float'])} → {wording.say_bytes(size['integer'])}"
        yield "Smaller", wording.say_ratio(size["float"], size["integer"]), change
    if latency["float"] and latency["integer"]:
        change = f"{wording.say_milliseconds(latency['float'])} → {wording.say_milliseconds(latency['integer'])}"
        yield "Speed-up", wording.say_ratio(latency["float"], latency["integer"]), change


def _quantizers(report: Report) -> list[dict[str, Any]]:
    """Every quantizer with its bits and what is known of its noise, noisiest first, weights last."""
    known = dict(report.sqnr_db)
    rows = [{**row, "sqnr_db": known.get(row["layer"]) if row["kind"] == "activation" else None} for row in report.bits]
    return sorted(rows, key=lambda row: _noisiest_first(row["sqnr_db"]))


def _noisiest_first(decibels: float | None) -> tuple[bool, float]:
    return decibels is None, math.inf if decibels is None else decibels


def drawn(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Panels with their pictures, as a template takes them."""
    return [{"title": panel.title, "remark": panel.remark, "looks": _in_both_looks(panel)} for panel in panels]


def _in_both_looks(panel: Panel) -> dict[str, str]:
    return in_both_looks(lambda look: draw_curves(panel.curves, panel.xlabel, look))


def sheet_of(pictures: Pictures | None) -> list[dict[str, Any]]:
    """The rows of the contact sheet, as a template takes them."""
    if pictures is None or not len(pictures.images):
        return []
    return [{"label": strip.label, "address": uri(strip.png)} for strip in draw_contact_sheet(pictures)]


def _sheet_caption(pictures: Pictures | None, source: str) -> str:
    if pictures is None or not len(pictures.images):
        return ""
    shown, count = count_shown(pictures), len(pictures.images)
    which = f"{shown} of {count:,} images" if shown < count else f"All {count} images"
    return f"{which}: {source}." if source else f"{which}."
