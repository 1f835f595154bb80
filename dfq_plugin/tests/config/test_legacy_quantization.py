from __future__ import annotations

import re
from typing import Any

import pytest

from dfq_plugin.tests.config.samples import compression_problem, levels_at, load, load_compression, value_of

CONV = "Net/Sequential[body]/NNCFConv2d[0]/conv2d_0"
MAPPED = [
    ({"preset": "mixed"}, "/preset", "quantize.preset", "mixed"),
    ({"quantize_inputs": False}, "/quantize_inputs", "quantize.quantize_inputs", False),
    ({"quantize_outputs": True}, "/quantize_outputs", "quantize.quantize_outputs", True),
    ({"overflow_fix": "enable"}, "/overflow_fix", "quantize.overflow_fix", "enable"),
    ({"overflow_fix": "first_layer_only"}, "/overflow_fix", "quantize.overflow_fix", "first_layer_only"),
    ({"compression_lr_multiplier": 2}, "/compression_lr_multiplier", "finetune.range_lr_multiplier", 2.0),
    ({"weights": {"bits": 3}}, "/weights/bits", "quantize.weight_bits", 3),
    ({"activations": {"bits": 5}}, "/activations/bits", "quantize.activation_bits", 5),
    ({"weights": {"mode": "symmetric"}}, "/weights/mode", "quantize.preset", "performance"),
    ({"activations": {"mode": "symmetric"}}, "/activations/mode", "quantize.preset", "performance"),
    ({"activations": {"mode": "asymmetric"}}, "/activations/mode", "quantize.preset", "mixed"),
    ({"weights": {"signed": True}}, "/weights/signed", "quantize.weight_bits", 8),
    ({"weights": {"per_channel": True}}, "/weights/per_channel", "quantize.weight_bits", 8),
    ({"activations": {"per_channel": False}}, "/activations/per_channel", "quantize.activation_bits", 8),
    ({"weights": {"logarithm_scale": False}}, "/weights/logarithm_scale", "quantize.weight_bits", 8),
    ({"ignored_scopes": CONV}, "/ignored_scopes", "quantize.ignored_scopes.names", ["body/0/conv2d/0"]),
    ({"ignored_scopes": ["{re}head"]}, "/ignored_scopes/0", "quantize.ignored_scopes.patterns", [".*(?:head)"]),
    ({"ignored_scopes": ["Net/A[b]"]}, "/ignored_scopes/0", "quantize.ignored_scopes.patterns", ["b/"]),
    ({"validate_scopes": False}, "/validate_scopes", "quantize.ignored_scopes.validate_scopes", False),
    (
        {"scope_overrides": {"weights": {"{re}head": {"bits": 4}}}},
        "/scope_overrides/weights/{re}head/bits",
        "quantize.bit_overrides",
        {"{re}head|WEIGHT": 4},
    ),
    (
        {"scope_overrides": {"activations": {CONV: {"bits": 2}}}},
        f"/scope_overrides/activations/{CONV.replace('/', '~1')}/bits",
        "quantize.bit_overrides",
        {"body/0/conv2d/0|INPUT": 2},
    ),
    (
        {"initializer": {"precision": {"type": "manual", "bitwidth_per_scope": [[2, f"{CONV}|WEIGHT"]]}}},
        "/initializer/precision/bitwidth_per_scope/0",
        "quantize.bit_overrides",
        {"body/0/conv2d/0|WEIGHT": 2},
    ),
    (
        {"initializer": {"precision": {"type": "manual", "bitwidth_per_scope": [[3, f"{CONV}|INPUT1"]]}}},
        "/initializer/precision/bitwidth_per_scope/0",
        "quantize.bit_overrides",
        {"body/0/conv2d/0|INPUT": 3},
    ),
    (
        {"initializer": {"precision": {"type": "manual", "bitwidth_per_scope": [[8, "Net/ReLU[r]/relu__0|OUTPUT"]]}}},
        "/initializer/precision/bitwidth_per_scope/0",
        "quantize.bit_overrides",
        {"r/relu_/0|OUTPUT": 8},
    ),
    (
        {"initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}},
        "/initializer/batchnorm_adaptation/num_bn_adaptation_samples",
        "quantize.weight_bits",
        8,
    ),
]


@pytest.mark.parametrize(("fields", "pointer", "name", "expected"), MAPPED)
def test_field_is_mapped(fields: dict[str, Any], pointer: str, name: str, expected: Any) -> None:
    config = load_compression(**fields)
    assert value_of(config, name) == expected
    assert levels_at(config, f"/compression{pointer}") == ["mapped"]


@pytest.mark.parametrize(
    ("fields", "pointer", "level"),
    [
        ({"weights": {"mode": "asymmetric"}}, "/weights/mode", "approximated"),
        ({"weights": {"signed": False}}, "/weights/signed", "approximated"),
        ({"activations": {"signed": True}}, "/activations/signed", "approximated"),
        ({"activations": {"signed": False}}, "/activations/signed", "approximated"),
        ({"weights": {"per_channel": False}}, "/weights/per_channel", "approximated"),
        ({"activations": {"per_channel": True}}, "/activations/per_channel", "approximated"),
        ({"activations": {"logarithm_scale": True}}, "/activations/logarithm_scale", "ignored"),
        (
            {"scope_overrides": {"weights": {"c": {"mode": "asymmetric"}}}},
            "/scope_overrides/weights/c/mode",
            "approximated",
        ),
        (
            {"scope_overrides": {"activations": {"c": {"per_channel": True}}}},
            "/scope_overrides/activations/c/per_channel",
            "approximated",
        ),
        (
            {"scope_overrides": {"activations": {"c": {"signed": True}}}},
            "/scope_overrides/activations/c/signed",
            "approximated",
        ),
        ({"activations": {"unified_scale_ops": [["a", "b"]]}}, "/activations/unified_scale_ops", "ignored"),
        ({"weights": {"validate_scopes": True}}, "/weights/validate_scopes", "ignored"),
        ({"export_to_onnx_standard_ops": False}, "/export_to_onnx_standard_ops", "ignored"),
        (
            {"initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 2000}}},
            "/initializer/batchnorm_adaptation/num_bn_adaptation_samples",
            "ignored",
        ),
        (
            {"initializer": {"batchnorm_adaptation": {"num_bn_forget_samples": 9}}},
            "/initializer/batchnorm_adaptation/num_bn_forget_samples",
            "ignored",
        ),
    ],
)
def test_field_is_noted_and_changes_nothing(fields: dict[str, Any], pointer: str, level: str) -> None:
    config = load_compression(**fields)
    assert levels_at(config, f"/compression{pointer}") == [level]
    assert config == load_compression()


@pytest.mark.parametrize(
    "field",
    [
        "batch_multiplier",
        "activations_quant_start_epoch",
        "weights_quant_start_epoch",
        "lr_poly_drop_start_epoch",
        "lr_poly_drop_duration_epochs",
        "disable_wd_start_epoch",
        "base_lr",
        "base_wd",
    ],
)
def test_staged_schedule_is_ignored_with_a_note(field: str) -> None:
    config = load_compression(params={field: 1})
    assert levels_at(config, f"/compression/params/{field}") == ["ignored"]
    assert config == load_compression()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", [4, 8]),
        ("num_data_points", 100),
        ("iter_number", 200),
        ("tolerance", 1e-4),
        ("compression_ratio", 1.5),
        ("eval_subset_ratio", 1.0),
        ("warmup_iter_number", 20),
        ("traces_per_layer_path", "traces"),
        ("dump_init_precision_data", False),
        ("bitwidth_assignment_mode", "liberal"),
    ],
)
def test_search_option_is_ignored_with_a_note_when_precision_is_manual(field: str, value: Any) -> None:
    config = load_compression(initializer={"precision": {"type": "manual", field: value}})
    assert levels_at(config, f"/compression/initializer/precision/{field}") == ["ignored"]


@pytest.mark.parametrize(
    ("fields", "pointer", "way_out"),
    [
        ({"weights": {"bits": 1}}, "/weights/bits", "expected an integer from 2 to 8"),
        ({"activations": {"bits": 16}}, "/activations/bits", "expected an integer from 2 to 8"),
        ({"weights": {"ignored_scopes": ["a"]}}, "/weights/ignored_scopes", "in /compression/ignored_scopes"),
        ({"activations": {"ignored_scopes": "a"}}, "/activations/ignored_scopes", "in /compression/ignored_scopes"),
        ({"activations": {"target_scopes": "a"}}, "/activations/target_scopes", "in /compression/target_scopes"),
        ({"target_scopes": "{re}a"}, "/target_scopes", "say what to leave out in ignored_scopes"),
        (
            {"scope_overrides": {"activations": {"c": {"mode": "asymmetric"}}}},
            "/scope_overrides/activations/c/mode",
            "set it for all activations",
        ),
        ({"quantize_patterns": [["1 cat"]]}, "/quantize_patterns", "delete it"),
        (
            {"scope_overrides": {"weights": {"c": {"initializer": {"range": {"type": "min_max"}}}}}},
            "/scope_overrides/weights/c/initializer/range",
            "in /compression/initializer/range",
        ),
        ({"precision": {"type": "manual"}}, "/precision", "Move it to /compression/initializer/precision"),
        ({"range": {}}, "/range", "Move it to /compression/initializer/range"),
        ({"signed": True}, "/signed", "Move it to /compression/weights/signed or /compression/activations/signed"),
        ({"weight": {}}, "/weight", "Did you mean 'weights'?"),
        ({"weights": {"bit": 4}}, "/weights/bit", "Did you mean 'bits'?"),
        ({"weights": {"bits": "4"}}, "/weights/bits", "got '4', expected an integer"),
        ({"overflow_fix": True}, "/overflow_fix", "expected 'enable', 'disable', 'first_layer_only'"),
        ({"ignored_scopes": 5}, "/ignored_scopes", "expected text, a list of text"),
    ],
)
def test_field_is_refused_with_its_place_and_the_way_out(fields: dict[str, Any], pointer: str, way_out: str) -> None:
    message = compression_problem(**fields)
    assert f"/compression{pointer}: " in message
    assert way_out in message
    assert "problems" not in message


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"bits": 4}, {"quantize.weight_bits": 4, "quantize.activation_bits": 4}),
        ({"bits": 4, "weights": {"bits": 4}}, {"quantize.weight_bits": 4, "quantize.activation_bits": 4}),
        ({"mode": "asymmetric"}, {"quantize.preset": "mixed"}),
        ({"per_channel": True}, {}),
    ],
)
def test_old_spelling_speaks_for_both_groups_with_a_note(fields: dict[str, Any], names: dict[str, Any]) -> None:
    config = load_compression(**fields)
    assert {name: value_of(config, name) for name in names} == names
    assert "approximated" in levels_at(config, f"/compression/{next(iter(fields))}")


def test_old_spelling_is_refused_when_a_group_contradicts_it() -> None:
    message = compression_problem(bits=4, weights={"bits": 3})
    assert "/compression/weights/bits: 3 contradicts /compression/bits, which says 4" in message


def test_preset_gives_way_to_the_mode_of_the_activations() -> None:
    config = load_compression(preset="mixed", activations={"mode": "symmetric"})
    assert config.quantize.preset == "performance"
    assert levels_at(config, "/compression/preset") == ["ignored"]


@pytest.mark.parametrize(("group", "text"), [("weights", "always signed"), ("activations", "follows from the values")])
def test_note_about_the_sign_is_that_of_the_group(group: str, text: str) -> None:
    notes = load_compression(**{group: {"signed": False}}).notes
    assert [text in note.message for note in notes if note.pointer == f"/compression/{group}/signed"] == [True]


def test_empty_list_of_unified_scales_is_nothing() -> None:
    config = load_compression(activations={"unified_scale_ops": []})
    assert levels_at(config, "/compression/activations/unified_scale_ops") == []


def test_scopes_that_both_groups_ignore_are_left_out_as_a_whole() -> None:
    config = load_compression(weights={"ignored_scopes": [CONV]}, activations={"ignored_scopes": CONV})
    assert config.quantize.ignored_scopes.names == ("body/0/conv2d/0",)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("body/0/conv2d/0", False),
        ("body/0/conv2d/1", True),
        ("head/linear/0", False),
        ("header/linear/0", True),
        ("/add/0", True),
        ("x", False),
        ("head.weight", False),
    ],
)
def test_target_scopes_leave_out_every_other_operation(name: str, left_out: bool) -> None:
    config = load_compression(target_scopes=[CONV, "Net/NNCFLinear[head]"])
    (pattern,) = config.quantize.ignored_scopes.patterns
    assert (re.match(pattern, name) is not None) == left_out


@pytest.mark.parametrize(("name", "left_out"), [("b/conv2d/0", True), ("bb/conv2d/0", False), ("a/head/add/0", True)])
def test_ignored_patterns_match_from_the_start_as_nncf_3_does(name: str, left_out: bool) -> None:
    patterns = load_compression(ignored_scopes=["Net/A[b]", "{re}head"]).quantize.ignored_scopes.patterns
    assert any(re.match(pattern, name) for pattern in patterns) == left_out


@pytest.mark.parametrize(
    ("group", "override", "extra"),
    [
        ("weights", {"mode": "symmetric", "per_channel": True, "signed": True}, {}),
        ("activations", {"mode": "symmetric", "per_channel": False}, {}),
        ("activations", {"mode": "asymmetric"}, {"preset": "mixed"}),
    ],
)
def test_scope_override_is_taken_when_it_says_what_holds_anyway(
    group: str, override: dict[str, Any], extra: dict[str, Any]
) -> None:
    config = load_compression(scope_overrides={group: {"c": override}}, **extra)
    assert all(levels_at(config, f"/compression/scope_overrides/{group}/c/{field}") == ["mapped"] for field in override)


def test_section_preset_decides_whether_a_scope_override_holds_anyway() -> None:
    compression = {"algorithm": "quantization", "scope_overrides": {"activations": {"c": {"mode": "asymmetric"}}}}
    assert load(quantize={"preset": "mixed"}, compression=compression).quantize.preset == "mixed"
