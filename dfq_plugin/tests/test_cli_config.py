"""``dfq config``: what it tells people and programs about a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfq_plugin.config import load_config
from dfq_plugin.tests.commands import dfq, write_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def test_check_speaks_to_programs(file: Path) -> None:
    good, bad = dfq("config", "check", file, "--json"), dfq("config", "check", file, "--json", "--set", "xyz=1")
    assert json.loads(good.stdout) == {"valid": True, "problems": [], "notes": []}
    told = json.loads(bad.stdout)
    assert (bad.exit_code, told["valid"], len(told["problems"])) == (2, False, 1)
    assert "xyz" in told["problems"][0]


def test_explanation_speaks_to_programs(tmp_path: Path) -> None:
    older = tmp_path / "older.json"
    older.write_text(
        '{"model": "timm:tiny", "input_info": {"sample_size": [1, 3, 8, 8]}, '
        '"compression": {"algorithm": "quantization", "ignored_scopes": ["Net/NNCFLinear[fc]/linear_0"]}}'
    )
    told = json.loads(dfq("config", "explain", older, "--json").stdout)
    named = {entry["setting"]: entry for entry in told["settings"]}
    assert named["quantize.ignored_scopes.names"]["value"] == ["fc/linear/0"]
    said = "'Net/NNCFLinear[fc]/linear_0' is 'fc/linear/0' in NNCF 3.x"
    assert said in [note["message"] for note in told["notes"]]
    assert said in dfq("config", "explain", older).stdout


def test_valid_file_is_called_valid(file: Path) -> None:
    result = dfq("config", "check", file)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{file}: valid (")


def test_problems_are_listed_with_their_place(file: Path) -> None:
    result = dfq("config", "check", file, "--set", "calibration.num_samples=0", "--set", "finetune.lr=-1")
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    assert "num_samples" in result.stderr
    assert "finetune.lr" in result.stderr
    assert result.stdout == ""


def test_every_setting_is_explained_with_its_origin(file: Path) -> None:
    lines = dfq("config", "explain", file, "--set", "quantize.weight_bits=4").stdout.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines if line}
    assert rows["quantize.weight_bits"] == ["4", "--set quantize.weight_bits"]
    assert rows["output_dir"] == ['"runs/tiny"', "/output_dir"]
    assert rows["quantize.activation_bits"] == ["8", "default"]


def test_schema_is_json_that_editors_can_use() -> None:
    schema = json.loads(dfq("config", "schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "quantize" in schema["properties"]


def test_older_config_is_converted_and_the_result_can_be_read(tmp_path: Path) -> None:
    older = tmp_path / "older.json"
    older.write_text(
        '{"input_info": {"sample_size": [1, 3, 8, 8]}, '
        '"compression": {"algorithm": "quantization", "weights": {"bits": 4}}}'
    )
    result = dfq("config", "convert", older)
    assert result.exit_code == 0
    converted = json.loads(result.stdout)
    assert (converted["input_shape"], converted["quantize"]["weight_bits"]) == ([3, 8, 8], 4)
    assert load_config({"model": {"source": "timm:tiny"}, **converted}).quantize.weight_bits == 4


def test_broken_file_is_bad_input_for_every_verb(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for verb in ("check", "explain", "convert"):
        result = dfq("config", verb, broken)
        assert result.exit_code == 2
        assert "syntax error" in result.stderr
