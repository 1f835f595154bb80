"""Two reports side by side as a page and as a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dfq_plugin.report.comparison import Group, Mark, compare
from dfq_plugin.report.content import Report
from dfq_plugin.report.curves import compared_panels
from dfq_plugin.report.markdown import plain_text, table
from dfq_plugin.report.pictures import Pictures
from dfq_plugin.report.verdict import judge

MARKS: dict[Mark, str] = {"": "", "better": "▲ better", "worse": "▼ worse", "differs": "≠ other"}


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        name: What to call it.
        report: What it found.
        pictures: Its synthetic images; None where they are not there.
    """

    name: str
    report: Report
    pictures: Pictures | None = None


def summarise(groups: Sequence[Group]) -> str:
    """How many rows differ, in a sentence."""
    marks = [row.mark for group in groups for row in group.rows if row.mark]
    if not marks:
        return "Nothing differs."
    better, worse = marks.count("better"), marks.count("worse")
    other = len(marks) - better - worse
    many = "1 difference" if len(marks) == 1 else f"{len(marks)} differences"
    return f"{many}: B is better in {better}, worse in {worse}, other in {other}."


def render_comparison_markdown(left: Side, right: Side) -> str:
    """Write both down as tables; the last column says what B is against A."""
    groups = compare(left.report, right.report)
    blocks = ["# Two runs side by side", f"A: {plain_text(left.name)}", f"B: {plain_text(right.name)}"]
    blocks.append(summarise(groups))
    for group in groups:
        blocks.append(f"## {group.title}")
        blocks += [f"**{group.warning}**"] if group.warning else []
        rows = [[row.label, row.left, row.right, MARKS[row.mark]] for row in group.rows]
        blocks.append(table(["", "A", "B", ""], rows))
    return "\n\n".join(blocks) + "\n"


def render_comparison_html(left: Side, right: Side) -> str:
    """Lay both out as a self-contained page."""
    # Here, not above: the card needs none of the packages that plots and pages do.
    from dfq_plugin.report.figures import draw_sqnr  # noqa: PLC0415
    from dfq_plugin.report.html import drawn, sheet_of  # noqa: PLC0415
    from dfq_plugin.report.pages import in_both_looks, template  # noqa: PLC0415

    groups, lettered = compare(left.report, right.report), {"A": left, "B": right}
    ratios = {letter: side.report.sqnr_db for letter, side in lettered.items() if side.report.sqnr_db}
    sheets = [(f"{letter}: {side.name}", sheet_of(side.pictures)) for letter, side in lettered.items()]
    return template("comparison.html.j2").render(
        runs=[(letter, side.name, judge(side.report)) for letter, side in lettered.items()],
        summary=summarise(groups),
        groups=groups,
        marks=MARKS,
        sqnr=in_both_looks(lambda look: draw_sqnr(ratios, look)) if len(ratios) == 2 else None,
        curves=drawn(compared_panels(left.report, right.report)),
        sheets=[(name, strips) for name, strips in sheets if strips],
    )
