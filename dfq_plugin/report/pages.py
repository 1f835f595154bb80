"""What all HTML pages have in common: templates, filters, and pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib import resources

import jinja2

from dfq_plugin import wording
from dfq_plugin.report.figures import NARROW, WIDE, Look


def template(name: str) -> jinja2.Template:
    """A template of this package, with every ``say_...`` of ``wording`` as a filter and as a function."""
    files = resources.files("dfq_plugin.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda other: files.joinpath(other).read_text(encoding="utf-8")),
    )
    sayings = {name: getattr(wording, name) for name in dir(wording) if name.startswith("say_")}
    environment.filters.update(sayings)
    environment.globals.update(sayings)
    return environment.get_template(name)


def in_both_looks(draw: Callable[[Look], bytes]) -> dict[str, str]:
    """A plot for wide and for narrow screens, as addresses that hold it."""
    return {"wide": uri(draw(WIDE)), "narrow": uri(draw(NARROW))}


def uri(png: bytes) -> str:
    """An address that holds a whole picture."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
