"""Whatever a file holds, loading gives a config or one message; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dfq_plugin.config import Config, convert, explain, load_config
from dfq_plugin.config.legacy import READERS
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import places_of_keys
from dfq_plugin.errors import ConfigError
from dfq_plugin.tests.config.samples import BASE

MODELS: dict[str, type[BaseModel]] = {"": Config, "/c": Quantization, "/k": KnowledgeDistillation, "/i": InputInfo}
WORDS = sorted({*places_of_keys(MODELS), *READERS, "algorithm", "pretrained", "workers", "$schema"})
VALUES = sorted(
    {"quantization", "knowledge_distillation", "rb_sparsity", "hawq", "manual", "{re}(", "a/b_0", "", "VPU"}
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 8, 10**400, -1])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(VALUES)
KEYS = st.sampled_from(WORDS) | st.text(max_size=6)
ANY = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=4) | st.dictionaries(KEYS, part, max_size=5), max_leaves=25
)
FIELDS = st.sampled_from(sorted(places_of_keys({"": Quantization})))
ALGORITHM = st.dictionaries(FIELDS, ANY, max_size=4).map(lambda fields: {"algorithm": "quantization", **fields})
DOCUMENTS = st.builds(
    lambda base, algorithms, rest: {**base, **algorithms, **rest},
    st.sampled_from([BASE, {}]),
    st.fixed_dictionaries({}, optional={"compression": ALGORITHM | st.lists(ALGORITHM, max_size=2)}),
    st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=6), ANY, max_size=3),
)


def survives(read: Callable[[], object]) -> str:
    """Run something that may say no; give its message, empty when it said yes."""
    try:
        read()
    except ConfigError as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
@example({"compression": {"algorithm": ["quantization"]}})
@example({"compression": {"algorithm": {}}})
@example({"target_device": {}, "hw_config_type": [], "weights": {}, "model": ["x"]})
@example({**BASE, "compression": {"algorithm": "quantization", "ignored_scopes": ["{re}("]}})
def test_any_document_is_a_config_or_one_message(document: dict[str, Any]) -> None:
    survives(lambda: explain(load_config(document)))
    survives(lambda: convert(document))


@settings(max_examples=30, deadline=None)
@given(ANY, st.sampled_from(["quantize.weight_bits", "compression.0.weights.bits", "model", "input_info", "a.b"]))
def test_any_override_is_a_config_or_one_message(value: Any, place: str) -> None:
    survives(lambda: load_config(BASE, [f"{place}={json.dumps(value)}"]))


@settings(max_examples=30, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
@example(text="[" * 5000)
@example(text='{"a":' * 3000)
@example(text="{'a': 1e999}")
@example(text='"\\ud800"')
def test_any_file_is_a_config_or_one_message(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(text, encoding="utf-8")
    assert survives(lambda: load_config(path))  # none of these says where a network comes from
    survives(lambda: convert(path))


def test_any_bytes_are_a_message(tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(bytes(range(256)))
    assert "cannot be read as a UTF-8 text file" in survives(lambda: load_config(path))


def test_deep_nesting_is_told_as_such() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    assert "nested too deeply" in survives(lambda: load_config({"calibration": {"params": deep}}))
