"""The NNCF 2.x algorithm ``quantization``: each field mapped, approximated with a note, or refused with the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dfq_plugin.config.legacy_precision import map_precision
from dfq_plugin.config.legacy_ranges import map_ranges
from dfq_plugin.config.legacy_schema import (
    BatchNormAdaptation,
    Quantization,
    ScopeOverride,
    StagedParams,
)
from dfq_plugin.config.scopes import REGEX_PREFIX, translate_scope
from dfq_plugin.config.statements import Statements, to_pointer

GroupName = Literal["weights", "activations"]
PRESET_OF_MODE = {"symmetric": "performance", "asymmetric": "mixed"}
BITS_OF_GROUP = {"weights": "weight_bits", "activations": "activation_bits"}
QUANTIZER_OF_GROUP = {"weights": "WEIGHT", "activations": "INPUT"}
ON_BOTH_FORMS = "searched for in the names of operations, as NNCF 3.x writes them and as NNCF 2.x did"
STAGED = "quantizers are active from the first step here, there is no staged schedule"
STAGED_HINTS = {"base_lr": "; say finetune.lr for the learning rate", "batch_multiplier": "; raise finetune.batch_size"}


@dataclass(frozen=True)
class _Group:
    """Properties of all weight or all activation quantizers, old spellings included, with where each was said."""

    name: GroupName
    values: dict[str, tuple[Any, str]]


def map_quantization(algorithm: Quantization, at: str, to: Statements) -> None:
    """Translate the algorithm ``quantization``.

    Args:
        algorithm: its checked fields.
        at: JSON pointer of the algorithm in the file.
        to: takes the settings, notes and problems.
    """
    groups = _read_groups(algorithm, at, to)
    _map_modes(algorithm, groups, at, to)
    for group in groups:
        if "bits" in group.values:
            to.map(("quantize", BITS_OF_GROUP[group.name]), *group.values["bits"])
        _map_group(group, to)
    for name in ("quantize_inputs", "quantize_outputs", "overflow_fix"):
        if getattr(algorithm, name) is not None:
            to.map(("quantize", name), getattr(algorithm, name), f"{at}/{name}")
    if algorithm.compression_lr_multiplier is not None:
        pointer = f"{at}/compression_lr_multiplier"
        to.map(("finetune", "range_lr_multiplier"), algorithm.compression_lr_multiplier, pointer)
    if algorithm.export_to_onnx_standard_ops is not None:
        message = "the file always holds standard QuantizeLinear and DequantizeLinear operators"
        to.note("ignored", f"{at}/export_to_onnx_standard_ops", message)
    _map_scopes(algorithm, at, to)
    _map_overrides("weights", algorithm.scope_overrides.weights, at, to)
    _map_overrides("activations", algorithm.scope_overrides.activations, at, to)
    map_ranges(algorithm.initializer.range, f"{at}/initializer/range", to)
    _map_batchnorm(algorithm.initializer.batchnorm_adaptation, f"{at}/initializer/batchnorm_adaptation", to)
    map_precision(algorithm.initializer.precision, f"{at}/initializer/precision", to)
    _note_staged(algorithm.params, f"{at}/params", to)


def _read_groups(algorithm: Quantization, at: str, to: Statements) -> tuple[_Group, _Group]:
    names: tuple[GroupName, GroupName] = ("weights", "activations")
    groups = (_Group("weights", {}), _Group("activations", {}))
    for group, name in zip(groups, names, strict=True):
        for field, value in getattr(algorithm, name):
            if value is not None:
                group.values[field] = (value, f"{at}/{name}/{field}")
    for field in ("mode", "bits", "per_channel"):
        value, pointer = getattr(algorithm, field), f"{at}/{field}"
        if value is None:
            continue
        to.note("approximated", pointer, f"old spelling, taken as {field} of both weights and activations")
        for group in groups:
            own, where = group.values.setdefault(field, (value, pointer))
            if own != value:
                to.refuse(where, f"{own!r} contradicts {pointer}, which says {value!r} for both groups; delete one")
    return groups


def _map_modes(algorithm: Quantization, groups: tuple[_Group, _Group], at: str, to: Statements) -> None:
    _note_weight_mode(*groups[0].values.get("mode", (None, "")), to)
    mode, where = groups[1].values.get("mode", (None, ""))
    if mode is not None:
        to.map(("quantize", "preset"), PRESET_OF_MODE[mode], where)
    if algorithm.preset is None:
        return
    if mode is not None and PRESET_OF_MODE[mode] != algorithm.preset:
        to.note("ignored", f"{at}/preset", f"{where} is more specific and wins, as in NNCF 2.x")
    else:
        to.map(("quantize", "preset"), algorithm.preset, f"{at}/preset")


def _note_weight_mode(mode: str | None, where: str, to: Statements) -> None:
    if mode == "symmetric":
        to.note("mapped", where, "weights are always symmetric")
    elif mode == "asymmetric":
        message = "taken as symmetric per channel instead of asymmetric: that is what integer kernels run fastest"
        to.note("approximated", where, message)


def _map_group(group: _Group, to: Statements) -> None:
    """Note the properties that have one value here, and whether that is the one asked for."""
    signed, where = group.values.get("signed", (None, ""))
    if signed is not None and group.name == "weights":
        to.note("mapped" if signed else "approximated", where, "weights are always signed")
    elif signed is not None:
        message = "whether activations are signed follows from the values they take on the synthetic images"
        to.note("approximated", where, message)
    per_channel, where = group.values.get("per_channel", (None, ""))
    if per_channel is not None and group.name == "weights":
        message = "weights have one scale per output channel" + (
            "" if per_channel else ", which is at least as accurate"
        )
        to.note("mapped" if per_channel else "approximated", where, message)
    elif per_channel is not None:
        message = "activations have one scale per tensor" + (", as integer kernels need" if per_channel else "")
        to.note("approximated" if per_channel else "mapped", where, message)
    logarithm, where = group.values.get("logarithm_scale", (None, ""))
    if logarithm is not None:
        to.note("ignored" if logarithm else "mapped", where, "scales are trained themselves, not their logarithm")
    unified, where = group.values.get("unified_scale_ops", (None, ""))
    if unified:
        message = "NNCF 3.x unifies the scales of additions and concatenations itself and takes no list"
        to.note("ignored", where, message)


def _map_scopes(algorithm: Quantization, at: str, to: Statements) -> None:
    names, patterns = [], []
    ignored = _placed(algorithm.ignored_scopes, f"{at}/ignored_scopes") + _common_group_scopes(algorithm, at, to)
    for scope, pointer in ignored:
        new = translate_scope(scope)
        if scope.startswith(REGEX_PREFIX):
            # NNCF 2.x searched anywhere in the name, NNCF 3.x matches from its start.
            patterns.append(f".*(?:{scope.removeprefix(REGEX_PREFIX)})")
            to.note("mapped", pointer, f"{scope!r} is {ON_BOTH_FORMS}")
        elif scope.endswith("]"):
            patterns.append(f"{re.escape(new)}/")
            to.note("mapped", pointer, f"{scope!r} is every operation inside {new!r}")
        else:
            names.append(new)
            to.note("mapped", pointer, f"{scope!r} is {new!r} in NNCF 3.x")
    targets = _map_targets(algorithm, at, to)
    pointer = f"{at}/ignored_scopes" if ignored else f"{at}/target_scopes"
    if names:
        to.say(("quantize", "ignored_scopes", "names"), list(dict.fromkeys(names)), pointer)
    if patterns + targets:
        to.say(("quantize", "ignored_scopes", "patterns"), list(dict.fromkeys(patterns + targets)), pointer)
    if algorithm.validate_scopes is not None:
        path = ("quantize", "ignored_scopes", "validate_scopes")
        to.map(path, algorithm.validate_scopes, f"{at}/validate_scopes")


def _map_targets(algorithm: Quantization, at: str, to: Statements) -> list[str]:
    """Patterns of what to leave out so that only the target scopes are left."""
    targets = _placed(algorithm.target_scopes, f"{at}/target_scopes")
    if any(scope.startswith(REGEX_PREFIX) for scope, _ in targets):
        message = (
            "a {re} pattern cannot be inverted safely; list operation names, or say what to leave out in ignored_scopes"
        )
        to.refuse(f"{at}/target_scopes", message)
        return []
    for scope, pointer in targets:
        to.note("mapped", pointer, f"{scope!r} is {translate_scope(scope)!r} in NNCF 3.x; all else stays in float")
    wanted = "|".join(re.escape(translate_scope(scope)) for scope, _ in targets)
    # NNCF 3.x operation names end in a call number; inputs, and the NNCF 2.x form of the names, stay out of it.
    return [rf"(?=.*/\d+$)(?!(?:{wanted})(?:/|$))"] if targets else []


def _common_group_scopes(algorithm: Quantization, at: str, to: Statements) -> list[tuple[str, str]]:
    """Scopes that both groups ignore; a scope that only one group ignores would run in float and is refused."""
    groups = {"weights": algorithm.weights, "activations": algorithm.activations}
    ignored = {name: _placed(group.ignored_scopes, f"{at}/{name}/ignored_scopes") for name, group in groups.items()}
    for name, group in groups.items():
        if group.target_scopes:
            to.refuse(f"{at}/{name}/target_scopes", f"say it for the operation as a whole, in {at}/target_scopes")
        if group.validate_scopes is not None:
            message = f"say validate_scopes for the operation as a whole, at {at}/validate_scopes"
            to.note("ignored", f"{at}/{name}/validate_scopes", message)
    if {scope for scope, _ in ignored["weights"]} == {scope for scope, _ in ignored["activations"]}:
        return ignored["weights"] + ignored["activations"]
    for name, scopes in ignored.items():
        if scopes:
            message = (
                "an operation with only its weights or only its activations quantized runs in float; "
                f"leave it out as a whole, in {at}/ignored_scopes"
            )
            to.refuse(f"{at}/{name}/ignored_scopes", message)
    return []


def _placed(scopes: str | list[str] | None, at: str) -> list[tuple[str, str]]:
    """Scopes, each with where it stands."""
    if isinstance(scopes, str):
        return [(scopes, at)]
    return [(scope, f"{at}/{index}") for index, scope in enumerate(scopes or [])]


def _map_overrides(group: GroupName, overrides: dict[str, ScopeOverride], at: str, to: Statements) -> None:
    for scope, override in overrides.items():
        pointer = f"{at}/scope_overrides/{group}" + to_pointer((scope,))
        if override.bits is not None:
            key = f"{translate_scope(scope)}|{QUANTIZER_OF_GROUP[group]}"
            to.map(("quantize", "bit_overrides", key), override.bits, f"{pointer}/bits")
            if scope.startswith(REGEX_PREFIX):
                to.note("mapped", pointer, f"{scope!r} is {ON_BOTH_FORMS}")
        _map_override_properties(group, override, pointer, to)
        if override.initializer is not None and override.initializer.range is not None:
            message = (
                f"single scopes cannot have a range type of their own; say it for all {group} in {at}/initializer/range"
            )
            to.refuse(f"{pointer}/initializer/range", message)


def _map_override_properties(group: GroupName, override: ScopeOverride, at: str, to: Statements) -> None:
    """What a single scope asks for besides bits; it gets what all of its group have."""
    if group == "weights":
        _note_weight_mode(override.mode, f"{at}/mode", to)
    elif override.mode is not None:
        usual = "asymmetric" if to.value("quantize", "preset") == "mixed" else "symmetric"
        if override.mode == usual:
            to.note("mapped", f"{at}/mode", "already so for all activations")
        else:
            message = "cannot be had for single scopes, only bits can; delete it, or set it for all activations"
            to.refuse(f"{at}/mode", f"{override.mode!r} {message}")
    values = {"signed": override.signed, "per_channel": override.per_channel}
    said = {name: (value, f"{at}/{name}") for name, value in values.items() if value is not None}
    _map_group(_Group(group, said), to)


def _map_batchnorm(adaptation: BatchNormAdaptation | None, at: str, to: Statements) -> None:
    if adaptation is None:
        return
    if adaptation.num_bn_adaptation_samples == 0:
        to.note("mapped", f"{at}/num_bn_adaptation_samples", "BatchNorm statistics are never re-estimated")
    elif adaptation.num_bn_adaptation_samples is not None:
        message = (
            "not done: it would overwrite the statistics that the synthetic images were made from, and BatchNorm is "
            "folded into the weights before quantization; set it to 0"
        )
        to.note("ignored", f"{at}/num_bn_adaptation_samples", message)
    if adaptation.num_bn_forget_samples is not None:
        to.note("ignored", f"{at}/num_bn_forget_samples", "BatchNorm statistics are never re-estimated")


def _note_staged(params: StagedParams, at: str, to: Statements) -> None:
    for field, value in params:
        if value is not None:
            to.note("ignored", f"{at}/{field}", STAGED + STAGED_HINTS.get(field, ""))
