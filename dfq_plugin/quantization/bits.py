"""The bit plan: how many bits each quantizer gets, and why.

NNCF places quantizers for 8 bits; the plan is applied to the placed quantizers one by one, and what each of them
really has afterwards is read back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nncf.torch.quantization.layers import PTQuantizerSpec

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.config.scopes import QuantizerGroup, match_scopes, split_quantizer_scope, translate_scope
from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.files import read_json_object, whole_file
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite

EIGHT = 8  # what NNCF places quantizers for
BATCHNORM_CALL = re.compile(r"/batch_norm/\d+$")
IMAGE_BITS = 8  # the network's input is an 8-bit image whatever the rest does


def plan_bits(
    sites: Sequence[QuantizerSite],
    layers: Sequence[ProductLayer],
    settings: QuantizeSettings,
    module_types: Mapping[str, str] | None = None,
    folded: Mapping[str, str] | None = None,
) -> list[BitAssignment]:
    """Give every quantizer its bits.

    Rules, weakest first: the requested bits; ``residual_bits`` for tensors that no product reads, unless placed as in
    the papers; ``first_last_bits``
    for the weights of the first and last product layer and for the input of the last; 8 bits for the network's input;
    per-scope overrides.

    Args:
        sites: the placed quantizers.
        layers: the product layers in order of execution, at least one.
        settings: what was asked for.
        module_types: class name of each module by dotted name, for overrides in the naming of NNCF 2.x.
        folded: the layers that BatchNorm layers were folded into, for overrides that name a BatchNorm.

    Raises:
        ConfigError: an override matches no quantizer.
        InputError: the file of an earlier plan cannot be read.
    """
    planned = {} if settings.bit_plan is None else read_plan(settings.bit_plan)
    overrides = _resolve_overrides(sites, planned | settings.bit_overrides, module_types, folded or {})
    assignments = []
    for site in sites:
        requested = settings.weight_bits if site.kind == "weight" else settings.activation_bits or IMAGE_BITS
        applied, reason = _rule(site, layers, settings, requested)
        if site.name in overrides:
            applied, reason = overrides[site.name], "override"
            requested = applied
        assignments.append(BitAssignment(site.name, site.kind, site.layer, requested, applied, reason))
    return assignments


def _rule(
    site: QuantizerSite, layers: Sequence[ProductLayer], settings: QuantizeSettings, requested: int
) -> tuple[int, str]:
    first, last = layers[0], layers[-1]
    if site.is_input:
        return IMAGE_BITS, "network input"
    if settings.first_last_bits is not None:
        if site.name == first.weight_quantizer:
            return settings.first_last_bits, "first layer"
        feeds_only_last = site.name == last.input_quantizer and site.readers == (last.operator,)
        if site.name == last.weight_quantizer or feeds_only_last:
            return settings.first_last_bits, "last layer"
    if site.kind == "activation" and not site.multiplied and settings.placement == "deployable":
        return settings.residual_bits, "no product reads it"
    return requested, "requested"


def _resolve_overrides(
    sites: Sequence[QuantizerSite],
    overrides: Mapping[str, int],
    module_types: Mapping[str, str] | None,
    folded: Mapping[str, str],
) -> dict[str, int]:
    """Bits by quantizer name; a later override wins over an earlier one."""
    resolved: dict[str, int] = {}
    inputs = [site.layer for site in sites if site.is_input]
    for key, bits in overrides.items():
        scope, group = split_quantizer_scope(key)
        scope = behind_batchnorm(scope, folded)
        names = sorted({place for site in sites for place in _places(site, group)})
        matched = set(match_scopes([scope], names, module_types=module_types, inputs=inputs))
        hit = [site.name for site in sites if matched & set(_places(site, group))]
        if not hit:
            msg = f"/quantize/bit_overrides: {key!r} matches no quantizer; there are: {', '.join(names[:20])}."
            raise ConfigError(msg)
        resolved.update(dict.fromkeys(hit, bits))
    return resolved


def behind_batchnorm(scope: str, folded: Mapping[str, str]) -> str:
    """The layer that a BatchNorm was folded into, for a scope that names one; any other scope as it is."""
    return folded.get(BATCHNORM_CALL.sub("", translate_scope(scope)), scope)


def _places(site: QuantizerSite, group: QuantizerGroup | None) -> tuple[str, ...]:
    """The operators under which a quantizer can be addressed: for ``|INPUT`` those that read it, else its own."""
    if site.kind == "weight":
        return (site.layer,) if group in {None, "WEIGHT"} else ()
    if group == "INPUT":
        return site.readers
    stands_before_reader = site.name.startswith("pre_hooks")
    return (site.layer, *site.others) if group is None or (group == "OUTPUT" and not stands_before_reader) else ()


def apply_bits(assignment: BitAssignment, quantizer: Any) -> BitAssignment:  # noqa: ANN401 - an NNCF quantizer
    """Set one quantizer's bits and report what it has now.

    Raises:
        ConfigError: the quantizer did not take them.
    """
    set_bits(quantizer, assignment.kind, assignment.applied)
    if quantizer.num_bits != assignment.applied:
        msg = f"{assignment.layer}: asked for {assignment.applied} bits, the quantizer has {quantizer.num_bits}."
        raise ConfigError(msg)
    return assignment


def set_bits(quantizer: Any, kind: Literal["weight", "activation"], bits: int) -> None:  # noqa: ANN401
    """Give an NNCF quantizer that was placed for 8 bits as many as are wanted.

    A weight below 8 bits uses every code. NNCF leaves out the lowest one, and with ``overflow_fix`` half of them: at 8
    bits hardly a loss, at 3 bits an eighth of the codes, while no sum of such products overflows.
    """
    if kind == "weight" and bits < EIGHT:  # NNCF has no public way to say so; the specification is what it saves
        every_code = {"narrow_range": False, "half_range": False}
        quantizer._narrow_range = quantizer._half_range = False  # noqa: SLF001
        quantizer._qspec = PTQuantizerSpec.from_state(quantizer._qspec.get_state() | every_code)  # noqa: SLF001
    quantizer.num_bits = bits


def summarise(plan: Sequence[BitAssignment]) -> str:
    """The plan in one line a kind: how many quantizers have how many bits, and why some differ from the request."""
    lines = []
    for kind in ("weight", "activation"):
        group = [entry for entry in plan if entry.kind == kind]
        if not group:
            continue
        counts = Counter((entry.applied, entry.reason) for entry in group)
        parts = [f"{count} x {bits} bit ({reason})" for (bits, reason), count in sorted(counts.items())]
        lines.append(f"{kind} quantizers: " + ", ".join(parts))
    return "\n".join(lines)


def write_plan(plan: Sequence[BitAssignment], path: Path) -> None:
    """Write a plan as the part of a config that gives every quantizer the same bits again."""
    stand_before = [entry for entry in plan if entry.name.startswith("pre_hooks") and entry.kind == "activation"]
    overrides = {entry.layer: entry.applied for entry in stand_before}  # first: they match more than they mean
    for entry in plan:
        if entry not in stand_before:
            ending = "WEIGHT" if entry.kind == "weight" else "OUTPUT"
            overrides[f"{entry.layer}|{ending}"] = entry.applied
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"quantize": {"bit_overrides": overrides}}, indent=2) + "\n")


def read_plan(path: str | Path) -> dict[str, int]:
    """Read what ``write_plan`` wrote, as ``quantize.bit_overrides``.

    Raises:
        InputError: there is no such file, or it is no bit plan.
    """
    content = read_json_object(Path(path))
    try:
        return QuantizeSettings.model_validate(content["quantize"]).bit_overrides
    except (ValueError, KeyError) as error:
        msg = f"quantize.bit_plan: {path} is no bit plan; name a file bit_plan.json that an earlier run wrote."
        raise InputError(msg) from error
