"""Report: what was made, how good it is, and how that is known, as HTML, JSON and Markdown."""

from dfq_plugin.report.comparison_pages import Side
from dfq_plugin.report.content import Report
from dfq_plugin.report.pictures import Pictures
from dfq_plugin.report.sections import BitsRow, Census, FloatNode, Parity
from dfq_plugin.report.verdict import Verdict, judge
from dfq_plugin.report.writer import WrittenReport, write_comparison, write_report

__all__ = [
    "BitsRow",
    "Census",
    "FloatNode",
    "Parity",
    "Pictures",
    "Report",
    "Side",
    "Verdict",
    "WrittenReport",
    "judge",
    "write_comparison",
    "write_report",
]
