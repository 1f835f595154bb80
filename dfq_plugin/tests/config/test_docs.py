"""The page about config files says what the code does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from dfq_plugin.config import json_schema, load_config
from dfq_plugin.config.base import Settings
from dfq_plugin.config.legacy_removed import OTHER_ALGORITHMS
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import allowed, places_of_keys
from dfq_plugin.config.schema import Config

PAGE = (Path(__file__).parents[3] / "docs" / "config.md").read_text(encoding="utf-8")


def rows_of(model: type[BaseModel], place: tuple[str, ...]) -> list[str]:
    """One table row a setting, sections inside sections by their own tables."""
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            rows += rows_of(kind, (*place, key))
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{key}` | {allowed(json_schema(), (*place, key))} | {default} | {meaning} |")
    return rows


@pytest.mark.parametrize("row", rows_of(Config, ()))
def test_page_holds_every_setting_with_its_bounds_default_and_meaning(row: str) -> None:
    assert row in PAGE


@pytest.mark.parametrize(
    "key",
    sorted({*places_of_keys({"/": Quantization, "/k": KnowledgeDistillation, "/i": InputInfo}), *OTHER_ALGORITHMS}),
)
def test_page_names_every_nncf2_field(key: str) -> None:
    assert f"`{key}`" in PAGE


def test_example_on_the_page_loads(tmp_path: Path) -> None:
    example = PAGE.split("```json\n")[1].split("```")[0]
    path = tmp_path / "config.json"
    path.write_text(example, encoding="utf-8")
    assert load_config(path).quantize.weight_bits == 4
