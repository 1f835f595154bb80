"""The page about NNCF 2.x files says of every field what the code does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dfq_plugin.config.legacy_removed import FORMER_KEYS, OTHER_ALGORITHMS
from dfq_plugin.tests.config.test_nncf2_fields import DISTILLATION, INPUT, PLACES, QUANTIZATION, ROOT, Case

PAGE = (Path(__file__).parents[3] / "docs" / "from_nncf2.md").read_text(encoding="utf-8")
STATUSES = {"mapped", "ours", "approximated", "ignored", "refused"}
SECTIONS = {"": "The root", "/compression": "`quantization`", "/compression/[]": "`knowledge_distillation`"}


def rows(heading: str) -> dict[str, set[str]]:
    """Each field of a table with what its row says becomes of it."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = {}
    for names, status in re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \| ([a-z, ]+) \|", section, re.MULTILINE):
        found.update({name: set(status.split(", ")) for name in re.findall(r"`([\w.]+)`", names)})
    return found


def section_and_field(place: str) -> tuple[str, str]:
    """Where the page tells of a place such as ``/compression/weights/bits``."""
    parts = place.strip("/").split("/")
    if parts[0] != "compression" or len(parts) == 1:
        return "", ".".join(parts)
    if parts[1] == "[]":
        return "/compression/[]", ".".join(parts[2:])
    return "/compression", ".".join({"fc": "SCOPE"}.get(part, part) for part in parts[1:] if part != "[]")


@pytest.mark.parametrize(("place", "case"), PLACES, ids=[place for place, _ in PLACES])
def test_page_says_what_becomes_of_the_field(place: str, case: Case) -> None:
    section, field = section_and_field(place)
    said = rows(SECTIONS[section])[field]
    assert said <= STATUSES
    assert said & ({"mapped", "ours"} if case.level == "mapped" else {case.level})


def test_page_names_no_field_that_there_is_not() -> None:
    def known(*tables: dict[str, Case]) -> set[str]:
        return {section_and_field(f"/compression/{name}")[1] for table in tables for name in table}

    assert rows(SECTIONS["/compression"]).keys() == known(QUANTIZATION) | FORMER_KEYS.keys()
    assert rows(SECTIONS["/compression/[]"]).keys() == DISTILLATION.keys()
    assert rows(SECTIONS[""]).keys() == ROOT.keys() | {f"input_info.{name}" for name in INPUT}


@pytest.mark.parametrize("name", sorted(OTHER_ALGORITHMS))
def test_page_names_every_algorithm_that_is_refused(name: str) -> None:
    assert f"`{name}`" in PAGE
