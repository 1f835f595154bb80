"""Write those tables of the pages that follow from the code: settings of the config, providers and their settings.

    python docs/reference.py            # writes the tables anew
    python docs/reference.py --check    # only says which pages are not current; exit code 1 when there are any

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; everything around it is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from dfq_plugin.config import json_schema
from dfq_plugin.config.base import Settings
from dfq_plugin.config.problems import allowed
from dfq_plugin.config.schema import Config
from dfq_plugin.providers import BUILTIN_PROVIDERS
from dfq_plugin.providers.registry import ProviderDescription, describe_provider

FOLDER = Path(__file__).parent
TABLE = re.compile(r"(?<=<!-- table: )(\S+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def config_tables(model: type[BaseModel] = Config, place: tuple[str, ...] = ()) -> dict[str, str]:
    """The tables of all sections of the config, ``config`` for its root and ``config.quantize`` for a section."""
    tables, rows = {}, []
    for name, field in model.model_fields.items():
        key = field.alias or name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            tables.update(config_tables(kind, (*place, key)))
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        rows.append((f"`{key}`", allowed(json_schema(), (*place, key)), default, field.description or ""))
    if rows:
        tables[".".join(("config", *place))] = table(("setting", "allowed", "default", "what it does"), rows)
    return tables


def provider_tables() -> dict[str, str]:
    """One table with all providers that ship with the package, and for each one with its settings."""
    described = [describe_provider(name) for name in sorted(BUILTIN_PROVIDERS)]
    rows = [
        (f"[`{each.info.name}`](#{each.info.name})", each.info.paper or each.summary, each.info.needs)
        for each in described
    ]
    settings = {f"provider.{each.info.name}": settings_table(each) for each in described}
    return {"providers": table(("provider", "paper, or what it does", "needs"), rows), **settings}


def settings_table(provider: ProviderDescription) -> str:
    """The settings of one provider."""
    if not provider.settings:
        return "It has no settings.\n"
    rows = [(f"`{each.name}`", default_of(each.default), each.description, each.source) for each in provider.settings]
    return table(("setting", "default", "what it does", "the default is from"), rows)


def default_of(value: object) -> str:
    """A default as a file says it."""
    return "required" if value == "required" else f"`{json.dumps(value)}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as Markdown; a ``|`` in a cell is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, ""])


def filled(text: str, tables: dict[str, str]) -> str:
    """A page with its tables written anew.

    Raises:
        KeyError: the page asks for a table that there is not.
    """
    return TABLE.sub(lambda found: f"{found[1]}{found[2]}{tables[found[1]]}", text)


def outdated() -> Iterator[tuple[Path, str]]:
    """Every page whose tables are not current, and what it should be."""
    tables = {**config_tables(), **provider_tables()}
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        current = filled(text, tables)
        if current != text:
            yield page, current


def main() -> None:
    """Write the tables, or check them."""
    pages = list(outdated())
    for page, text in pages:
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        print(f"{page.name}: {'not current' if '--check' in sys.argv else 'written'}")
    sys.exit(1 if pages and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
