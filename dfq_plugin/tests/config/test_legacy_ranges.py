from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.tests.config.samples import levels_at, load, load_compression, problem

AT = "/compression/initializer/range"


@pytest.mark.parametrize(
    ("kind", "activations", "levels"),
    [
        ("mixed_min_max", "mean_min_max", ["mapped", "approximated", "mapped"]),
        ("min_max", "min_max", ["mapped", "mapped"]),
        ("mean_min_max", "mean_min_max", ["mapped", "mapped"]),
        ("percentile", "mean_percentile", ["mapped", "approximated", "approximated"]),
        ("mean_percentile", "mean_percentile", ["mapped", "approximated"]),
        ("threesigma", "mean_no_outliers", ["mapped", "approximated", "approximated"]),
    ],
)
def test_range_type_is_mapped(kind: str, activations: str, levels: list[str]) -> None:
    config = load_compression(initializer={"range": {"type": kind}})
    assert (config.quantize.activation_range, config.quantize.weight_range) == (activations, "min_max")
    assert levels_at(config, f"{AT}/type") == levels


def test_ranges_stay_automatic_when_no_type_is_said() -> None:
    config = load_compression(initializer={"range": {"num_init_samples": 7}})
    assert (config.quantize.activation_range, config.quantize.weight_range) == ("auto", "auto")
    assert config.quantize.num_init_samples == 7


def test_weight_range_may_be_said_beside_a_type() -> None:
    compression = {"algorithm": "quantization", "initializer": {"range": {"type": "min_max"}}}
    quantize = load(compression=compression, quantize={"weight_range": "mse"}).quantize
    assert (quantize.activation_range, quantize.weight_range) == ("min_max", "mse")


def test_weight_range_must_agree_with_a_type_for_weights_only() -> None:
    ranges = [{"type": "min_max", "target_quantizer_group": "weights"}]
    compression = {"algorithm": "quantization", "initializer": {"range": ranges}}
    assert f"{AT}/0/type: 'min_max' contradicts /quantize/weight_range" in problem(
        compression=compression, quantize={"weight_range": "mse"}
    )


def test_zero_samples_are_refused() -> None:
    message = problem(compression={"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 0}}})
    assert f"{AT}/num_init_samples: 0 samples would leave the ranges unset" in message


@pytest.mark.parametrize(
    ("wanted", "made", "levels"), [(300, 256, ["mapped", "approximated"]), (300, 300, ["mapped"]), (9, 256, ["mapped"])]
)
def test_surplus_samples_are_noted(wanted: int, made: int, levels: list[str]) -> None:
    compression = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": wanted}}}
    config = load(compression=compression, calibration={"num_samples": made})
    assert levels_at(config, f"{AT}/num_init_samples") == levels


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"min_percentile": 1, "max_percentile": 98}, (1.0, 98.0)),
        ({"min_percentile": 1}, (1.0, 99.9)),
        ({"max_percentile": 98}, (0.1, 98.0)),
        ({}, (0.1, 99.9)),
    ],
)
def test_percentiles_are_mapped(params: dict[str, float], expected: tuple[float, float]) -> None:
    config = load_compression(initializer={"range": {"type": "percentile", "params": params}})
    assert config.quantize.percentiles == expected


def test_percentiles_are_ignored_with_a_note_when_the_type_has_none() -> None:
    config = load_compression(initializer={"range": {"type": "min_max", "params": {"min_percentile": 1}}})
    assert config.quantize.percentiles == (0.1, 99.9)
    assert levels_at(config, f"{AT}/params") == ["ignored"]


def test_list_speaks_for_each_group() -> None:
    ranges = [
        {"target_quantizer_group": "weights", "type": "mean_percentile", "num_init_samples": 5, "params": {}},
        {"target_quantizer_group": "activations", "type": "min_max", "num_init_samples": 9, "validate_scopes": True},
    ]
    config = load_compression(initializer={"range": ranges})
    quantize = config.quantize
    assert (quantize.weight_range, quantize.activation_range, quantize.num_init_samples) == ("min_max", "min_max", 9)
    assert levels_at(config, f"{AT}/0/type") == ["approximated"]
    assert levels_at(config, f"{AT}/0/num_init_samples") == ["ignored"]
    assert levels_at(config, f"{AT}/0/params") == ["ignored"]
    assert levels_at(config, f"{AT}/1/validate_scopes") == ["ignored"]


def test_list_entry_without_a_group_speaks_for_both() -> None:
    quantize = load_compression(initializer={"range": [{"type": "mean_min_max"}]}).quantize
    assert (quantize.weight_range, quantize.activation_range) == ("min_max", "mean_min_max")


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([{"type": "min_max", "target_scopes": "a"}], f"{AT}/0/target_scopes: ranges are chosen for all weights"),
        ([{"type": "min_max", "ignored_scopes": ["a"]}], f"{AT}/0/ignored_scopes: ranges are chosen for all weights"),
        ([{"type": "min_max"}, {"type": "threesigma"}], f"{AT}/1/type: 'mean_no_outliers' contradicts {AT}/0/type"),
        ({"type": "hsmd"}, f"{AT}/type: got 'hsmd', expected 'mixed_min_max', 'min_max', "),
        ({"params": {"min_percentile": 101}}, f"{AT}/params/min_percentile: got 101, expected a number from 0 to 100"),
        ({"target_quantizer_group": "weights"}, f"{AT}/target_quantizer_group: unknown key. Known here: num_init_"),
    ],
)
def test_ranges_are_refused(ranges: Any, expected: str) -> None:
    assert expected in problem(compression={"algorithm": "quantization", "initializer": {"range": ranges}})
