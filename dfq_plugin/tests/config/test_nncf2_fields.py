"""Every field of the NNCF 2.x schema, one case each: it becomes a setting, is replaced with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from dfq_plugin.config import load_config
from dfq_plugin.config.legacy import READERS
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import _forms
from dfq_plugin.errors import ConfigError
from dfq_plugin.tests.config.samples import BASE, value_of

CONV = "Net/NNCFConv2d[c]/conv2d_0"
IN_FULL = [f"{CONV}|WEIGHT"]


@dataclass(frozen=True)
class Case:
    """What a field says and what becomes of it.

    Attributes:
        value: what the file says.
        level: how closely it is followed; "refused" when it is not.
        ours: the setting and its value, where it is mapped; otherwise words of the message.
        beside: what has to stand beside it in the same object.
        above: what has to stand beside the object that it is in.
        at: where the note stands, when that is below the field.
    """

    value: Any
    level: str
    ours: tuple[str, Any] | str
    beside: Mapping[str, Any] = field(default_factory=dict)
    above: Mapping[str, Any] = field(default_factory=dict)
    at: str = ""


def bits(name: str, group: str) -> tuple[str, dict[str, int]]:
    return "quantize.bit_overrides", {f"{name}|{group}": 4}


SAME = "the same for all"  # what holds anyway has no setting
ROOT = {
    "input_info": Case({"sample_size": [1, 1, 9, 9]}, "mapped", ("input_shape", [1, 9, 9]), at="/sample_size"),
    "target_device": Case("VPU", "approximated", "NPU"),
    "hw_config_type": Case("cpu", "approximated", "target_device"),
    "compression": Case(
        {"algorithm": "quantization", "preset": "mixed"}, "mapped", ("quantize.preset", "mixed"), at="/preset"
    ),
    "accuracy_aware_training": Case({"mode": "early_exit"}, "refused", "set finetune.epochs"),
    "bootstrapNAS": Case({"training": {}}, "refused", "search with another tool"),
    "compression_lr_multiplier": Case(0.5, "mapped", ("finetune.range_lr_multiplier", 0.5)),
    "disable_shape_matching": Case(True, "ignored", "no more use for it"),
    "log_dir": Case("logs", "mapped", ("output_dir", "logs")),
}
INPUT = {
    "sample_size": Case([2, 3, 9, 9], "mapped", ("input_shape", [3, 9, 9])),
    "type": Case("long", "refused", "'float' inputs"),
    "filler": Case("random", "ignored", "an image of its own"),
    "keyword": Case("x", "ignored", "first positional argument"),
}
DISTILLATION = {
    "algorithm": Case("knowledge_distillation", "mapped", SAME),
    "type": Case("mse", "mapped", ("finetune.loss", "mse")),
    "scale": Case(3, "mapped", ("finetune.loss_scale", 3.0)),
    "temperature": Case(2, "mapped", ("finetune.temperature", 2.0)),
}
STAGED = {
    name: Case(1, "ignored", "active from the first step")
    for name in (
        "activations_quant_start_epoch",
        "base_lr",
        "base_wd",
        "batch_multiplier",
        "disable_wd_start_epoch",
        "lr_poly_drop_duration_epochs",
        "lr_poly_drop_start_epoch",
        "weights_quant_start_epoch",
    )
}
HAWQ = {"type": "hawq"}
PRECISION = {
    "type": Case("autoq", "approximated", "quantize.allocation"),
    "bits": Case([4, 8], "mapped", ("quantize.allocation.widths", [4, 8]), HAWQ),
    "num_data_points": Case(16, "mapped", ("quantize.allocation.num_images", 16), HAWQ),
    "compression_ratio": Case(2, "mapped", ("quantize.allocation.average_weight_bits", 4.0), HAWQ),
    "iter_number": Case(200, "ignored", "HAWQ's search", HAWQ),
    "tolerance": Case(1e-4, "ignored", "HAWQ's search", HAWQ),
    "traces_per_layer_path": Case("traces.pth", "ignored", "HAWQ's search", HAWQ),
    "dump_init_precision_data": Case(True, "ignored", "HAWQ's search", HAWQ),
    "bitwidth_assignment_mode": Case("strict", "ignored", "HAWQ's search", HAWQ),
    "eval_subset_ratio": Case(0.5, "ignored", "AutoQ's search", {"type": "autoq"}),
    "warmup_iter_number": Case(20, "ignored", "AutoQ's search", {"type": "autoq"}),
    "bitwidth_per_scope": Case([[4, *IN_FULL]], "mapped", bits("c/conv2d/0", "WEIGHT"), {"type": "manual"}, at="/0"),
}
RANGE = {
    "num_init_samples": Case(9, "mapped", ("quantize.num_init_samples", 9)),
    "type": Case("min_max", "mapped", ("quantize.activation_range", "min_max")),
    "params": Case({"min_percentile": 1}, "ignored", "have parameters", {"type": "min_max"}),
    "params/min_percentile": Case(1, "mapped", ("quantize.percentiles", [1.0, 99.9]), above={"type": "percentile"}),
    "params/max_percentile": Case(99, "mapped", ("quantize.percentiles", [0.1, 99.0]), above={"type": "percentile"}),
}
RANGE_LIST = {
    **{f"[]/{name}": case for name, case in RANGE.items()},
    "[]/target_scopes": Case([CONV], "refused", "delete the scopes"),
    "[]/ignored_scopes": Case([CONV], "refused", "delete the scopes"),
    "[]/validate_scopes": Case(True, "ignored", "no scopes to validate"),
    "[]/target_quantizer_group": Case("activations", "mapped", SAME),
}
FOR_ONE = Case([{"type": "min_max"}], "refused", "say it for all")
OVERRIDE = {
    "mode": Case("asymmetric", "approximated", "symmetric"),
    "signed": Case(False, "approximated", "signed"),
    "per_channel": Case(False, "approximated", "one scale per output channel"),
    "initializer": Case({"range": {"type": "min_max"}}, "refused", "say it for all", at="/range"),
    "initializer/range": Case({"num_init_samples": 9}, "refused", "say it for all"),
}
GROUP = {
    "mode": Case("asymmetric", "approximated", "symmetric"),
    "bits": Case(4, "mapped", ("quantize.weight_bits", 4)),
    "signed": Case(False, "approximated", "always signed"),
    "per_channel": Case(False, "approximated", "one scale per output channel"),
    "logarithm_scale": Case(True, "ignored", "not their logarithm"),
    "ignored_scopes": Case([CONV], "refused", "/compression/ignored_scopes"),
    "target_scopes": Case([CONV], "refused", "/compression/target_scopes"),
    "validate_scopes": Case(True, "ignored", "/compression/validate_scopes"),
}
ACTIVATIONS = {
    **GROUP,
    "mode": Case("asymmetric", "mapped", ("quantize.preset", "mixed")),
    "bits": Case(4, "mapped", ("quantize.activation_bits", 4)),
    "signed": Case(True, "approximated", "the values they take"),
    "per_channel": Case(True, "approximated", "one scale per tensor"),
    "unified_scale_ops": Case([["a", "b"]], "ignored", "unifies the scales"),
}
QUANTIZATION = {
    "algorithm": Case("quantization", "mapped", SAME),
    "mode": Case("asymmetric", "approximated", "both weights and activations"),
    "bits": Case(4, "approximated", "both weights and activations"),
    "per_channel": Case(True, "approximated", "both weights and activations"),
    "preset": Case("mixed", "mapped", ("quantize.preset", "mixed")),
    "quantize_inputs": Case(False, "mapped", ("quantize.quantize_inputs", False)),
    "quantize_outputs": Case(True, "mapped", ("quantize.quantize_outputs", True)),
    "overflow_fix": Case("enable", "mapped", ("quantize.overflow_fix", "enable")),
    "export_to_onnx_standard_ops": Case(True, "ignored", "standard QuantizeLinear"),
    "ignored_scopes": Case([CONV], "mapped", ("quantize.ignored_scopes.names", ["c/conv2d/0"]), at="/0"),
    "target_scopes": Case(["{re}conv"], "refused", "ignored_scopes"),
    "validate_scopes": Case(False, "mapped", ("quantize.ignored_scopes.validate_scopes", False)),
    "compression_lr_multiplier": Case(2, "mapped", ("finetune.range_lr_multiplier", 2.0)),
    "weights": Case({"bits": 4}, "mapped", ("quantize.weight_bits", 4), at="/bits"),
    **{f"weights/{name}": case for name, case in GROUP.items()},
    "activations": Case({"bits": 4}, "mapped", ("quantize.activation_bits", 4), at="/bits"),
    **{f"activations/{name}": case for name, case in ACTIVATIONS.items()},
    "scope_overrides": Case({"weights": {"fc": {"bits": 4}}}, "mapped", bits("fc", "WEIGHT"), at="/weights/fc/bits"),
    "scope_overrides/weights": Case({"fc": {"bits": 4}}, "mapped", bits("fc", "WEIGHT"), at="/fc/bits"),
    **{f"scope_overrides/weights/fc/{name}": case for name, case in OVERRIDE.items()},
    "scope_overrides/weights/fc/bits": Case(4, "mapped", bits("fc", "WEIGHT")),
    "scope_overrides/activations": Case({"fc": {"bits": 4}}, "mapped", bits("fc", "INPUT"), at="/fc/bits"),
    **{f"scope_overrides/activations/fc/{name}": case for name, case in OVERRIDE.items()},
    "scope_overrides/activations/fc/bits": Case(4, "mapped", bits("fc", "INPUT")),
    "scope_overrides/activations/fc/mode": Case("asymmetric", "refused", "set it for all activations"),
    "scope_overrides/activations/fc/signed": Case(True, "approximated", "the values they take"),
    "scope_overrides/activations/fc/per_channel": Case(True, "approximated", "one scale per tensor"),
    "initializer": Case(
        {"range": {"type": "min_max"}}, "mapped", ("quantize.activation_range", "min_max"), at="/range/type"
    ),
    "initializer/range": Case(
        {"type": "mean_min_max"}, "mapped", ("quantize.activation_range", "mean_min_max"), at="/type"
    ),
    **{f"initializer/range/{name}": case for name, case in {**RANGE, **RANGE_LIST}.items()},
    "initializer/batchnorm_adaptation": Case(
        {"num_bn_adaptation_samples": 2000}, "ignored", "overwrite the statistics", at="/num_bn_adaptation_samples"
    ),
    "initializer/batchnorm_adaptation/num_bn_adaptation_samples": Case(0, "mapped", SAME),
    "initializer/batchnorm_adaptation/num_bn_forget_samples": Case(9, "ignored", "never re-estimated"),
    "initializer/precision": Case(HAWQ, "approximated", "quantize.allocation", at="/type"),
    **{f"initializer/precision/{name}": case for name, case in PRECISION.items()},
    "params": Case({"base_lr": 1}, "ignored", "finetune.lr", at="/base_lr"),
    **{f"params/{name}": case for name, case in STAGED.items()},
}


def document(place: str, case: Case) -> dict[str, Any]:
    """The smallest config that says what a case does at a place such as ``/compression/weights/bits``."""
    *parents, last = place.strip("/").split("/")
    found: Any = {**case.beside, last: case.value}
    for distance, key in enumerate(reversed(parents)):
        found = [found] if key == "[]" else {**(case.above if distance == 0 else {}), key: found}
    return dict(found)


def fields(model: type[BaseModel]) -> set[str]:
    """Every field of a schema; entries of lists are called ``[]``, single scopes ``fc``."""
    schema = model.model_json_schema()

    def walk(place: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for form in _forms(place, schema):
            for key, part in form.get("properties", {}).items():
                yield f"{prefix}{key}"
                yield from walk(part, f"{prefix}{key}/")
            if isinstance(form.get("additionalProperties"), Mapping):
                yield from walk(form["additionalProperties"], f"{prefix}fc/")
            if form.get("type") == "array" and "items" in form:
                yield from walk(form["items"], f"{prefix}[]/")

    return set(walk(schema, ""))


def of_single_scopes(name: str) -> bool:
    """Whether a field lies in the ranges of a single scope, which are refused as a whole."""
    return name.startswith("scope_overrides") and "initializer/range/" in name


PLACES = [
    *((f"/{name}", case) for name, case in ROOT.items()),
    *((f"/input_info/{name}", case) for name, case in INPUT.items()),
    *((f"/compression/{name}", case) for name, case in QUANTIZATION.items()),
    *((f"/compression/[]/{name}", case) for name, case in DISTILLATION.items()),
]


@pytest.mark.parametrize(
    ("model", "cases"),
    [(InputInfo, INPUT), (KnowledgeDistillation, DISTILLATION), (Quantization, QUANTIZATION)],
    ids=["input", "distillation", "quantization"],
)
def test_every_field_of_the_schema_has_a_case(model: type[BaseModel], cases: dict[str, Case]) -> None:
    assert {name for name in fields(model) if not of_single_scopes(name)} == cases.keys()


def test_every_root_key_has_a_case() -> None:
    assert READERS.keys() == ROOT.keys()
    assert len(PLACES) == 105


@pytest.mark.parametrize(("place", "case"), PLACES, ids=[place for place, _ in PLACES])
def test_field_is_followed_or_refused(
    place: str, case: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = {"model": BASE["model"], "input_shape": BASE["input_shape"], **document(place, case)}
    raw |= {} if "compression" not in raw else {"compression": completed(raw["compression"], place)}
    if place.startswith("/input_info"):
        del raw["input_shape"]
        raw["input_info"].setdefault("sample_size", [1, 3, 8, 8])
    pointer = place.replace("[]", "0") + case.at
    if case.level == "refused":
        with pytest.raises(ConfigError) as caught:
            load_config(raw)
        assert f"{pointer}: " in str(caught.value)
        assert str(case.ours) in str(caught.value)
        return
    logger = logging.getLogger("nncf.dfq_plugin.config")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    try:
        config = load_config(raw)
    finally:
        logger.removeHandler(caplog.handler)
    found = [note for note in config.notes if note.pointer == pointer]
    assert case.level in {note.level for note in found}
    if isinstance(case.ours, tuple):
        assert value_of(config, case.ours[0]) == case.ours[1]
    elif case.level != "mapped":  # the warning names what was written and what is done
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert any(f"{pointer}: {case.level}: " in line and case.ours in line for line in said)


def completed(compression: Any, place: str) -> Any:
    """An algorithm with the fields that it must have."""
    if place.startswith("/compression/[]"):
        return [{"algorithm": "knowledge_distillation", "type": "softmax", **compression[0]}]
    return {"algorithm": "quantization", **compression}


ALSO_ROOT_KEYS = {"algorithm", "compression_lr_multiplier"}


@pytest.mark.parametrize("key", sorted({name for name in fields(Quantization) if "/" not in name} - ALSO_ROOT_KEYS))
def test_field_at_the_root_is_told_where_it_belongs(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({**BASE, "compression": {"algorithm": "quantization"}, key: {}})
    assert f"/{key}: unknown key. Move it to " in str(caught.value)
