"""Compare two finished runs: read what each left in its output folder, and write one page and one card about both."""

from __future__ import annotations

import logging
from pathlib import Path

from dfq_plugin.errors import DFQError, InputError
from dfq_plugin.files import read_json_object
from dfq_plugin.report import Pictures, Report, Side, write_comparison
from dfq_plugin.synthetic_set import SyntheticSet

logger = logging.getLogger("nncf.dfq_plugin.report")

REPORT, SYNTHETIC = "report.json", "synthetic.safetensors"


def compare_runs(left: Path, right: Path, folder: Path) -> dict[str, str]:
    """Write ``comparison.html`` and ``comparison.md`` about two runs.

    Args:
        left: The output folder of a run, or its ``report.json``.
        right: Likewise, of the run that is set against it.
        folder: Where to; made when missing.

    Returns:
        The paths of the files and the number of differences, in words.

    Raises:
        InputError: There is no report in one of the places, or it cannot be read.
    """
    written = write_comparison(read_run(left), read_run(right), folder)
    page = {} if written.html is None else {"comparison": str(written.html)}
    return {**page, "markdown": str(written.markdown), "differences": written.summary}


def read_run(place: Path) -> Side:
    """Read the report of a run, and its synthetic images where they are still beside it."""
    path = place / REPORT if place.is_dir() else place
    if not path.is_file():
        msg = f"{path} does not exist; give the output folder of a `dfq run`, or its {REPORT}."
        raise InputError(msg)
    try:
        report = Report.from_json(read_json_object(path))
    except (DFQError, ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{path} cannot be read as a report: {error}"
        raise InputError(msg) from error
    return Side(str(place), report, _pictures(path.with_name(SYNTHETIC), report))


def _pictures(path: Path, report: Report) -> Pictures | None:
    if not path.is_file():
        return None
    try:
        found = SyntheticSet.load(path)
    except InputError as error:
        logger.warning("The synthetic images are left out: %s", error)
        return None
    facts = report.provenance.get("teacher_facts", {})
    return Pictures(found.images, found.labels, facts.get("mean"), facts.get("std"))
