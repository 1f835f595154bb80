"""What the tests of the report share."""

from __future__ import annotations

import pytest

from dfq_plugin.report import html, pages


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an empty picture in the place of every plot: drawing takes a second a page."""
    empty = pages.uri(b"")
    for module in (html, pages):
        monkeypatch.setattr(module, "in_both_looks", lambda _draw: {"wide": empty, "narrow": empty})
