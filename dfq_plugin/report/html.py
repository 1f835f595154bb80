"""The report as one HTML file that needs nothing else: styles inside, pictures inside, no script, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import jinja2
from torch import Tensor

from dfq_plugin import wording
from dfq_plugin.report.content import MEASURED, Report
from dfq_plugin.report.figures import (
    DARK,
    LIGHT,
    SHEET_COLUMNS,
    SHEET_ROWS,
    Theme,
    draw_contact_sheet,
    draw_losses,
    draw_sqnr,
)
from dfq_plugin.report.markdown import count_bits
from dfq_plugin.report.verdict import judge

WORST_LAYERS = 5


def render_html(
    report: Report, images: Tensor | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> str:
    """Lay the report out as a self-contained page for light and dark screens, wide and narrow.

    Args:
        report: What to say.
        images: Synthetic images, (N, C, H, W), in the teacher's normalised input space; None leaves them out.
        mean: Per channel, of pixels in 0..1, to undo the normalisation; None stretches every image.
        std: Likewise.
    """
    data = report.to_json()
    return _template().render(
        report=data,
        verdict=judge(report),
        tiles=list(_tiles(report)),
        measured_on={key: report.measured_on[key] for section, key in MEASURED.items() if report.has_numbers(section)},
        has={section: report.has_numbers(section) for section in (*MEASURED, "size_bytes")},
        bits_summary=[(kind, bits, count) for (kind, bits), count in count_bits(report)],
        longest_stage=max(report.timings_s.values(), default=0.0),
        worst_layers=_worst_layers(report),
        config=json.dumps(data["config"], indent=2),
        provenance=list(_flat(data["provenance"])),
        sheet=None if images is None or not len(images) else _uri(draw_contact_sheet(images, mean, std)),
        sheet_caption=_sheet_caption(0 if images is None else len(images), report.calibration_set),
        losses=_both_themes(lambda theme: draw_losses(report.losses, theme)) if report.losses else None,
        sqnr=_both_themes(lambda theme: draw_sqnr(report.sqnr_db, theme)) if report.sqnr_db else None,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sayings = {name: getattr(wording, name) for name in dir(wording) if name.startswith("say_")}
    environment.filters.update(sayings)
    environment.globals.update(sayings)
    text = resources.files("dfq_plugin.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _tiles(report: Report) -> Iterator[tuple[str, str, str]]:
    """Give the figures at the head of the page as (label, number, remark), as far as they are known."""
    accuracy, agreement, census, parity = report.accuracy, report.agreement, report.census, report.parity
    if accuracy["onnx"] is not None:
        teacher = accuracy["teacher"]
        remark = "" if teacher is None else f"{wording.say_points(accuracy['onnx'] - teacher)} against the teacher"
        yield "Top-1 accuracy", wording.say_percent(accuracy["onnx"]), remark
    if agreement["onnx"] is not None:
        yield "Agreement", wording.say_percent(agreement["onnx"]), "same class as the teacher"
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


def _worst_layers(report: Report) -> list[tuple[str, float]]:
    known = [(layer, value) for layer, value in report.sqnr_db if value is not None]
    return sorted(known, key=lambda row: row[1])[:WORST_LAYERS]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} › ")  # noqa: RUF001 - a typographic arrow between levels
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _sheet_caption(count: int, source: str) -> str:
    shown = min(count, SHEET_COLUMNS * SHEET_ROWS)
    which = f"The first {shown} of {count:,} images" if shown < count else f"All {count} images"
    return f"{which}: {source}" if source else which


def _both_themes(draw: Callable[[Theme], bytes]) -> dict[str, str]:
    return {"light": _uri(draw(LIGHT)), "dark": _uri(draw(DARK))}


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
