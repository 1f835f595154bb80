from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dfq_plugin.config.reading import apply_override, parse_override, read_document
from dfq_plugin.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_is_read_when_it_has_comments_and_trailing_commas(tmp_path: Path) -> None:
    text = '// whole line\n{"a": 1, // rest of line\n /* inside */ "b": "// text",}\n'
    assert read_document(write(tmp_path, text))[0] == {"a": 1, "b": "// text"}


def test_file_is_read_when_it_starts_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, '\ufeff{"a": 1}'))[0] == {"a": 1}


def test_mapping_is_copied() -> None:
    source: dict[str, Any] = {"a": {"b": (1, 2)}, "path": Path("x")}
    document, label = read_document(MappingProxyType(source))
    assert document == {"a": {"b": [1, 2]}, "path": "x"}
    assert label == "config"
    document["a"]["b"].append(3)
    assert source["a"]["b"] == (1, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n "b" 2}', ':2:6: syntax error: Unexpected "2"'),
        ('{"a": ', ":1:7: syntax error: Unexpected end of input"),
        ('{"a": 1, "a": 2}', 'syntax error: Duplicate key "a"'),
        ("", "syntax error"),
        ("[1]", "holds a list"),
        ("5", "holds the value 5"),
    ],
)
def test_file_is_refused_with_its_place_when_it_is_malformed(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_is_refused_with_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; relative paths start at the working directory"):
        read_document(tmp_path / "nowhere.json")


def test_file_is_refused_when_it_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a UTF-8 text file"):
        read_document(path)
    with pytest.raises(ConfigError, match="cannot be read as a UTF-8 text file"):
        read_document(tmp_path)


def test_mapping_is_refused_when_json_cannot_hold_it() -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        read_document({"a": object()})


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("quantize.weight_bits=4", ("quantize", "weight_bits"), 4),
        ("finetune.lr=1e-3", ("finetune", "lr"), 0.001),
        ("model.weights=null", ("model", "weights"), None),
        ("quantize.quantize_inputs=false", ("quantize", "quantize_inputs"), False),
        ("quantize.percentiles=[1, 99]", ("quantize", "percentiles"), [1, 99]),
        ("calibration.params={steps: 5}", ("calibration", "params"), {"steps": 5}),
        ("model.source=timm:tiny", ("model", "source"), "timm:tiny"),
        ("validate.images=folder:a=b", ("validate", "images"), "folder:a=b"),
        ("output_dir='5'", ("output_dir",), "5"),
        ("output_dir=", ("output_dir",), ""),
    ],
)
def test_override_is_json5_or_else_text(text: str, path: tuple[str, ...], value: Any) -> None:
    override = parse_override(text)
    assert (override.path, override.value) == (path, value)


@pytest.mark.parametrize("text", ["quantize.weight_bits", "=4", "quantize..bits=4"])
def test_override_is_refused_when_it_has_no_key_or_no_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected 'section.setting=value'"):
        parse_override(text)


def test_override_is_written_into_objects_and_lists() -> None:
    document: dict[str, Any] = {"compression": [{"weights": {"bits": 8}}]}
    apply_override(document, parse_override("compression.0.weights.bits=4"))
    apply_override(document, parse_override("compression.0.activations.bits=5"))
    assert document == {"compression": [{"weights": {"bits": 4}, "activations": {"bits": 5}}]}


@pytest.mark.parametrize("text", ["a.0.b=1", "a.1=1", "a.x=1", "c.d=1"])
def test_override_is_refused_when_the_way_there_is_blocked(text: str) -> None:
    with pytest.raises(ConfigError, match="which has no"):
        apply_override({"a": [5], "c": "text"}, parse_override(text))
