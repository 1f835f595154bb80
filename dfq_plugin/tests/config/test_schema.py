from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dfq_plugin.config import CalibrationSettings, Config, IgnoredScopes, ModelSettings, Note, QuantizeSettings
from dfq_plugin.config.base import Settings
from dfq_plugin.config.statements import setting_names
from dfq_plugin.tests.config.samples import BASE, load, problem, value_of

DEFAULTS: dict[str, Any] = {
    "model.weights": None,
    "calibration.provider": "intraq",
    "calibration.num_samples": 256,
    "calibration.params": {},
    "calibration.cache": True,
    "quantize.weight_bits": 8,
    "quantize.first_last_bits": 8,
    "quantize.residual_bits": 8,
    "quantize.overflow_fix": "disable",
    "quantize.quantize_inputs": True,
    "quantize.quantize_outputs": False,
    "quantize.percentiles": [0.1, 99.9],
    "finetune.epochs": 0,
    "finetune.temperature": 4.0,
    "export.packing": "none",
    "export.opset": 21,
    "validate.images": "none",
    "validate.latency_runs": 50,
    "output_dir": "runs/latest",
    "target_device": "ANY",
}


@pytest.mark.parametrize(("name", "expected"), DEFAULTS.items())
def test_default_stands_when_nothing_is_said(name: str, expected: Any) -> None:
    assert value_of(load(), name) == expected


@pytest.mark.parametrize(
    ("section", "field", "good", "bad"),
    [
        ("model", "source", "torchvision:resnet18", "resnet18"),
        ("model", "source", "python:my.package:make.net", "python:my package:make"),
        ("model", "source", "timm:hf-hub:some/net", "onnx:net"),
        ("model", "weights", "w.safetensors", ""),
        ("calibration", "num_samples", 1, 0),
        ("calibration", "seed", 0, -1),
        ("quantize", "weight_bits", 2, 1),
        ("quantize", "weight_bits", 8, 9),
        ("quantize", "activation_bits", 2, 1),
        ("quantize", "first_last_bits", None, 16),
        ("quantize", "residual_bits", 8, None),
        ("quantize", "placement", "deployable", "everywhere"),
        ("quantize", "weight_range", "mse", "mean_min_max"),
        ("quantize", "activation_range", "mean_no_outliers", "threesigma"),
        ("quantize", "percentiles", [0, 100], [0, 100.1]),
        ("quantize", "percentiles", [1, 99], [99, 1]),
        ("quantize", "percentiles", [1, 99], [50, 50]),
        ("quantize", "percentiles", [1, 99], [1]),
        ("quantize", "bit_overrides", {"{re}conv|WEIGHT": 2}, {"conv": 9}),
        ("quantize", "bit_overrides", {"conv": 8}, {"{re}(": 4}),
        ("quantize", "bit_overrides", {"conv": 8}, {"|WEIGHT": 4}),
        ("finetune", "epochs", 0, -1),
        ("finetune", "lr", 1e-9, 0),
        ("finetune", "temperature", 0.5, 0),
        ("finetune", "range_lr_multiplier", 0, -0.1),
        ("finetune", "loss", "mse", "ce"),
        ("finetune", "loss_scale", 2, 0),
        ("export", "opset", 22, 20),
        ("export", "packing", "none", "int8"),
        ("validate", "images", "folder:pictures", "folder:"),
        ("validate", "images", "safetensors:a.safetensors", "a.safetensors"),
        ("validate", "held_out", 0, -1),
        ("validate", "parity_codes", 1, 0),
        ("validate", "latency_runs", 0, -1),
        ("validate", "require_integer", False, 0),
    ],
)
def test_value_is_taken_inside_its_bounds_and_refused_outside(section: str, field: str, good: Any, bad: Any) -> None:
    base = BASE.get(section, {})
    assert value_of(load(**{section: base | {field: good}}), f"{section}.{field}") == good
    assert f"/{section}/{field}" in problem(**{section: base | {field: bad}})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"mean": [0.5] * 3}, "mean and std belong together"),
        ({"mean": [0.5] * 3, "std": [0.5]}, "mean has 3 values and std has 1"),
        ({"mean": [0.5], "std": [0.5]}, "1 values but input_shape has 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}, "/model/std/2: got 0.0, expected a number above 0"),
    ],
)
def test_normalisation_is_refused_when_its_parts_disagree(model: dict[str, Any], expected: str) -> None:
    assert expected in problem(model={"source": "timm:tiny", **model})


@pytest.mark.parametrize("shape", [[3, 8], [3, 8, 8, 8], [3, 0, 8], [3, 8.5, 8], 8])
def test_input_shape_is_refused_when_it_is_not_three_counts(shape: Any) -> None:
    assert "/input_shape" in problem(input_shape=shape)


@pytest.mark.parametrize(
    "quantize", [{"weight_bits": 4}, {"first_last_bits": 4}, {"bit_overrides": {"conv": 3}}], ids=str
)
def test_int4_packing_is_taken_when_some_weight_has_four_bits(quantize: dict[str, Any]) -> None:
    assert load(quantize=quantize, export={"packing": "int4"}).export.packing == "int4"


def test_int4_packing_is_refused_when_every_weight_has_more_bits() -> None:
    quantize = {"weight_bits": 5, "first_last_bits": None}
    assert "lower quantize.weight_bits" in problem(quantize=quantize, export={"packing": "int4"})


@pytest.mark.parametrize("params", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}])
def test_provider_params_are_refused_when_json_cannot_hold_them(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must be writable as JSON"):
        CalibrationSettings(params=params)


def test_provider_params_are_a_copy() -> None:
    params = {"layers": [1]}
    settings = CalibrationSettings(params=params)
    params["layers"].append(2)
    assert settings.params == {"layers": [1]}


def test_ignored_entries_match_from_the_start_when_they_are_patterns() -> None:
    entries = IgnoredScopes(names=("a/conv2d/0",), patterns=("b|c",)).entries()
    assert entries == ("a/conv2d/0", "{re}^(?:b|c)")


def test_ignored_pattern_is_refused_when_it_has_a_syntax_error() -> None:
    assert "is not a regular expression" in problem(quantize={"ignored_scopes": {"patterns": ["("]}})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        QuantizeSettings().weight_bits = 4  # type: ignore[misc]


def test_equality_looks_at_settings_and_not_at_history() -> None:
    plain = load()
    told = plain.with_history({"output_dir": "/output_dir"}, (Note(level="mapped", pointer="/a", message="b"),))
    assert told == plain
    assert hash(told) == hash(plain)
    assert told.notes
    assert told.origins
    assert not plain.notes
    assert plain != load(output_dir="elsewhere")
    assert plain != "config"


def test_resolved_is_json_with_the_keys_of_the_file() -> None:
    resolved = load().resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert "validate" in resolved
    assert "notes" not in resolved


def test_config_can_be_built_in_python() -> None:
    config = Config(model=ModelSettings(source="timm:tiny"), input_shape=(3, 8, 8))
    assert config == load()
    assert config.validation.held_out == 32


def sections() -> Sequence[type[BaseModel]]:
    found: list[type[BaseModel]] = [Config, Note]
    found += [kind for f in Config.model_fields.values() if isinstance(kind := f.annotation, type)]
    return [model for model in found if issubclass(model, Settings)] + [IgnoredScopes]


@pytest.mark.parametrize("model", sections())
def test_every_field_is_described(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())


def test_names_of_settings_are_those_that_set_takes() -> None:
    names = list(setting_names(Config))
    assert {"output_dir", "quantize.weight_bits", "quantize.ignored_scopes.names", "validate.images"} <= set(names)
    assert not {"quantize", "validation.images", "quantize.ignored_scopes"} & set(names)
    assert len(names) == len(set(names))
