from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfq_plugin.config import load_config
from dfq_plugin.errors import ConfigError
from dfq_plugin.tests.config.samples import problem


@pytest.mark.parametrize(
    ("parts", "first", "second"),
    [
        (
            {"quantize": {"weight_bits": 4}, "compression": {"algorithm": "quantization", "weights": {"bits": 3}}},
            "/compression/weights/bits: 3",
            "/quantize/weight_bits, which says 4",
        ),
        ({"input_info": {"sample_size": [1, 3, 9, 9]}}, "/input_info/sample_size: [3, 9, 9]", "/input_shape, which"),
        ({"output_dir": "a", "log_dir": "b"}, "/log_dir: 'b'", "/output_dir, which says 'a'"),
        (
            {
                "compression_lr_multiplier": 1,
                "compression": {"algorithm": "quantization", "compression_lr_multiplier": 2},
            },
            "/compression_lr_multiplier",
            "/compression/compression_lr_multiplier",
        ),
        (
            {
                "quantize": {"bit_overrides": {"c/conv2d/0|WEIGHT": 4}},
                "compression": {
                    "algorithm": "quantization",
                    "scope_overrides": {"weights": {"Net/NNCFConv2d[c]/conv2d_0": {"bits": 5}}},
                },
            },
            "/compression/scope_overrides/weights/Net~1NNCFConv2d[c]~1conv2d_0/bits: 5",
            "/quantize/bit_overrides/c~1conv2d~10|WEIGHT, which says 4",
        ),
    ],
)
def test_contradiction_names_both_places(parts: dict[str, Any], first: str, second: str) -> None:
    message = problem(**parts)
    assert first in message
    assert second in message
    assert "contradicts" in message


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"quantise": {}}, "config: /quantise: unknown key. Did you mean 'quantize'?"),
        ({"quantize": {"weigth_bits": 4}}, "/quantize/weigth_bits: unknown key. Did you mean 'weight_bits'?"),
        (
            {"quantize": {"ignored_scopes": {"name": []}}},
            "/quantize/ignored_scopes/name: unknown key. Did you mean 'names'?",
        ),
        ({"weights": {"bits": 4}}, "/weights: unknown key. Move it to /compression/weights or /model/weights"),
        ({"activations": {}}, "/activations: unknown key. Move it to /compression/activations"),
        ({"precision": {}}, "/precision: unknown key. Move it to /compression/initializer/precision"),
        ({"bits": 4}, "/bits: unknown key. Move it to /compression/weights/bits or /compression/activations/bits"),
        ({"weight_bits": 4}, "/weight_bits: unknown key. Move it to /quantize/weight_bits"),
        ({"weight_bit": 4}, "/weight_bit: unknown key. Did you mean 'weight_bits', at /quantize/weight_bits?"),
        ({"seed": 4}, "/seed: unknown key. Move it to /calibration/seed or /finetune/seed"),
        ({"validation": {}}, "/validation: unknown key. Did you mean 'validate'?"),
        (
            {"xyz": 4},
            "/xyz: unknown key. Known here: $schema, calibration, compression, compression_lr_multiplier, export",
        ),
        ({"notes": []}, "/notes: unknown key"),
        ({"quantize": 5}, "/quantize: got 5, expected an object"),
        ({"quantize": {"weight_bits": 9}}, "/quantize/weight_bits: got 9, expected an integer from 2 to 8"),
        ({"quantize": {"weight_bits": "4"}}, "/quantize/weight_bits: got '4', expected an integer from 2 to 8"),
        ({"quantize": {"weight_bits": True}}, "/quantize/weight_bits: got True, expected an integer from 2 to 8"),
        ({"quantize": {"first_last_bits": 9}}, "got 9, expected an integer from 2 to 8 or null"),
        ({"quantize": {"preset": "fast"}}, "/quantize/preset: got 'fast', expected 'performance' or 'mixed'"),
        ({"finetune": {"lr": float("nan")}}, "/finetune/lr: got nan, expected a number above 0"),
        ({"calibration": {"params": {"a": float("inf")}}}, "/calibration/params: must be writable as JSON"),
        (
            {"model": {}},
            "/model/source: missing; give 'torchvision:NAME', 'timm:NAME' or 'python:package.module:factory'",
        ),
        ({"model": {"source": "x" * 200}}, f"/model/source: got '{'x' * 76}..., expected"),
        (
            {"validate": {"images": "val"}},
            "/validate/images: got 'val', expected 'folder:DIR', 'safetensors:FILE' or 'none'",
        ),
        ({"input_shape": [3, 8]}, "/input_shape/2: missing; give an integer of at least 1"),
        ({"input_shape": 8}, "/input_shape: got 8, expected [channels, height, width], each at least 1"),
    ],
)
def test_problem_is_told_with_its_place_and_what_is_allowed(parts: dict[str, Any], expected: str) -> None:
    message = problem(**parts)
    assert expected in message
    assert "problems" not in message


def test_required_settings_are_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({})
    assert str(caught.value).splitlines() == [
        "config: 2 problems",
        "  /model: missing; give an object or text.",
        "  /input_shape: missing; give [channels, height, width], each at least 1.",
    ]


def test_all_problems_are_told_at_once() -> None:
    compression = {
        "algorithm": "quantization",
        "target_scopes": "{re}a",
        "initializer": {"range": {"num_init_samples": 0}},
    }
    message = problem(compression=compression, quantize={"weight_bits": 9}, xyz=1)
    assert message.startswith("config: 4 problems\n  /compression/target_scopes: ")
    assert all(text in message for text in ("/range/num_init_samples", "/quantize/weight_bits", "/xyz"))


def test_consequences_of_a_problem_are_not_told() -> None:
    compression = {"algorithm": "quantization", "weights": {"bits": 4, "modee": "symmetric"}}
    message = problem(compression=compression, export={"packing": "int4"})
    assert message == "config: /compression/weights/modee: unknown key. Did you mean 'mode'?"


def test_problem_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"xyz": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"job\.json: 3 problems"):
        load_config(path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("quantize.weight_bits=9", "--set quantize.weight_bits: got 9, expected an integer from 2 to 8"),
        ("quantize.weigth_bits=4", "--set quantize.weigth_bits: unknown key. Did you mean 'weight_bits'?"),
        ("quantise.weight_bits=4", "--set quantise.weight_bits: unknown key. Did you mean 'quantize'?"),
        ("quantize.weight_bits", "expected 'section.setting=value'"),
        ("output_dir=5", "--set output_dir: got 5, expected text"),
    ],
)
def test_problem_of_an_override_is_told_by_its_text(override: str, expected: str) -> None:
    assert expected in problem(override)
