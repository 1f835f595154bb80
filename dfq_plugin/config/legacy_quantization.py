"""The NNCF 2.x algorithm ``quantization``: each field mapped, approximated with a note, or refused with the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dfq_plugin.config.legacy_ranges import map_ranges
from dfq_plugin.config.legacy_schema import (
    BatchNormAdaptation,
    PrecisionInitializer,
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
    _map_precision(algorithm.initializer.precision, f"{at}/initializer/precision", to)
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
    weight_mode, where = groups[0].values.get("mode", (None, ""))
    if weight_mode == "symmetric":
        to.note("mapped", where, "weights are always symmetric")
    elif weight_mode == "asymmetric":
        to.note("approximated", where, "weights are symmetric per channel: that is what integer kernels run fastest")
    mode, where = groups[1].values.get("mode", (None, ""))
    if mode is not None:
        to.map(("quantize", "preset"), PRESET_OF_MODE[mode], where)
    if algorithm.preset is None:
        return
    if mode is not None and PRESET_OF_MODE[mode] != algorithm.preset:
        to.note("ignored", f"{at}/preset", f"{where} is more specific and wins, as in NNCF 2.x")
    else:
        to.map(("quantize", "preset"), algorithm.preset, f"{at}/preset")


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
    names, patterns, pointer = [], [], f"{at}/ignored_scopes"
    ignored = _listed(algorithm.ignored_scopes) + _common_group_scopes(algorithm, at, to)
    for scope in dict.fromkeys(ignored):
        if scope.startswith(REGEX_PREFIX):
            # NNCF 2.x searched anywhere in the name, NNCF 3.x matches from its start.
            patterns.append(f".*(?:{scope.removeprefix(REGEX_PREFIX)})")
        elif scope.endswith("]"):
            patterns.append(f"{re.escape(translate_scope(scope))}/")  # a module: everything inside
        else:
            names.append(translate_scope(scope))
    targets = _listed(algorithm.target_scopes)
    if any(scope.startswith(REGEX_PREFIX) for scope in targets):
        message = (
            "a {re} pattern cannot be inverted safely; list operation names, or say what to leave out in ignored_scopes"
        )
        to.refuse(f"{at}/target_scopes", message)
    elif targets:
        wanted = "|".join(re.escape(translate_scope(scope)) for scope in targets)
        # NNCF 3.x operation names end in a call number; inputs, and the NNCF 2.x form of the names, stay out of it.
        patterns.append(rf"(?=.*/\d+$)(?!(?:{wanted})(?:/|$))")
        pointer = pointer if ignored else f"{at}/target_scopes"
    if names:
        to.map(("quantize", "ignored_scopes", "names"), names, pointer)
    if patterns:
        to.map(("quantize", "ignored_scopes", "patterns"), patterns, pointer)
    if algorithm.validate_scopes is not None:
        path = ("quantize", "ignored_scopes", "validate_scopes")
        to.map(path, algorithm.validate_scopes, f"{at}/validate_scopes")


def _common_group_scopes(algorithm: Quantization, at: str, to: Statements) -> list[str]:
    """Scopes that both groups ignore; a scope that only one group ignores would run in float and is refused."""
    groups = {"weights": algorithm.weights, "activations": algorithm.activations}
    ignored = {name: _listed(group.ignored_scopes) for name, group in groups.items()}
    for name, group in groups.items():
        if _listed(group.target_scopes):
            to.refuse(f"{at}/{name}/target_scopes", f"say it for the operation as a whole, in {at}/target_scopes")
        if group.validate_scopes is not None:
            message = f"say validate_scopes for the operation as a whole, at {at}/validate_scopes"
            to.note("ignored", f"{at}/{name}/validate_scopes", message)
    if set(ignored["weights"]) == set(ignored["activations"]):
        return ignored["weights"]
    for name, scopes in ignored.items():
        if scopes:
            message = (
                "an operation with only its weights or only its activations quantized runs in float; "
                f"leave it out as a whole, in {at}/ignored_scopes"
            )
            to.refuse(f"{at}/{name}/ignored_scopes", message)
    return []


def _listed(scopes: str | list[str] | None) -> list[str]:
    return [scopes] if isinstance(scopes, str) else list(scopes or [])


def _map_overrides(group: GroupName, overrides: dict[str, ScopeOverride], at: str, to: Statements) -> None:
    for scope, override in overrides.items():
        pointer = f"{at}/scope_overrides/{group}" + to_pointer((scope,))
        if override.bits is not None:
            key = f"{translate_scope(scope)}|{QUANTIZER_OF_GROUP[group]}"
            to.map(("quantize", "bit_overrides", key), override.bits, f"{pointer}/bits")
        usual = {"mode": "symmetric", "per_channel": True, "signed": True}
        if group == "activations":
            mode = "asymmetric" if to.value("quantize", "preset") == "mixed" else "symmetric"
            usual = {"mode": mode, "per_channel": False}
        for field in ("mode", "per_channel", "signed"):
            value = getattr(override, field)
            if value is not None and value == usual.get(field):
                to.note("mapped", f"{pointer}/{field}", f"already so for all {group}")
            elif value is not None:
                message = (
                    f"{value!r} for single scopes is not supported, only bits are; delete it, or set it for all {group}"
                )
                to.refuse(f"{pointer}/{field}", message)
        if override.initializer is not None and override.initializer.range is not None:
            message = (
                f"single scopes cannot have a range type of their own; say it for all {group} in {at}/initializer/range"
            )
            to.refuse(f"{pointer}/initializer/range", message)


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


def _map_precision(precision: PrecisionInitializer | None, at: str, to: Statements) -> None:
    if precision is None:
        return
    if precision.type != "manual":
        message = (
            f"{precision.type!r} searches with labelled data, which a data-free job does not have; use type 'manual' "
            "with bitwidth_per_scope, or quantize.bit_overrides"
        )
        to.refuse(f"{at}/type", message)
        return
    to.note("mapped", f"{at}/type", "bits are set by hand, in quantize.bit_overrides")
    for index, (bits, scope) in enumerate(precision.bitwidth_per_scope or []):
        name, _, group = scope.rpartition("|") if re.search(r"\|(WEIGHT|OUTPUT|INPUT\d*)$", scope) else (scope, "", "")
        ending = f"|{group.rstrip('0123456789')}" if group else ""
        pointer = f"{at}/bitwidth_per_scope/{index}"
        to.map(("quantize", "bit_overrides", translate_scope(name) + ending), bits, pointer)
    for field in sorted(precision.model_fields_set - {"type", "bitwidth_per_scope"}):
        to.note("ignored", f"{at}/{field}", "belongs to the searches 'hawq' and 'autoq'; type 'manual' does not use it")


def _note_staged(params: StagedParams, at: str, to: Statements) -> None:
    for field, value in params:
        if value is not None:
            to.note("ignored", f"{at}/{field}", STAGED + STAGED_HINTS.get(field, ""))
