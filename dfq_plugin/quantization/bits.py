"""The bit plan: how many bits each quantizer gets, and why.

NNCF places quantizers for 8 bits; the plan is applied to the placed quantizers one by one, and what each of them
really has afterwards is read back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.config.scopes import QuantizerGroup, match_scopes, split_quantizer_scope, translate_scope
from dfq_plugin.errors import ConfigError
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite

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

    Rules, weakest first: the requested bits; ``residual_bits`` for tensors that no product reads; ``first_last_bits``
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
    """
    overrides = _resolve_overrides(sites, settings.bit_overrides, module_types, folded or {})
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
    if site.kind == "activation" and not site.multiplied:
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
    quantizer.num_bits = assignment.applied
    if quantizer.num_bits != assignment.applied:
        msg = f"{assignment.layer}: asked for {assignment.applied} bits, the quantizer has {quantizer.num_bits}."
        raise ConfigError(msg)
    return assignment


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
