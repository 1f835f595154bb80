"""Which operators scopes stand for: those that stay in float, and those with bits of their own."""

from __future__ import annotations

import difflib

import torch
from torch import nn

from dfq_plugin.config.quantize_settings import IgnoredScopes, QuantizeSettings
from dfq_plugin.config.scopes import match_scopes, split_quantizer_scope
from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization.bits import behind_batchnorm
from dfq_plugin.quantization.nncf_graph import INPUT, OperatorGraph
from dfq_plugin.quantization.prepare import prepare


def ignored_operators(graph: OperatorGraph, scopes: IgnoredScopes) -> list[str]:
    """NNCF's names of the operators that the scopes stand for, in order of execution.

    Args:
        graph: the network.
        scopes: names and patterns as NNCF 3.x or 2.x writes them, and operator types.

    Raises:
        ConfigError: a scope matches no operator although ``scopes.validate_scopes``.
    """
    nodes = graph.computing_operators()
    names = {graph.own_name(node.node_name): node.node_name for node in nodes}
    matched = match_scopes(
        scopes.entries(),
        names,
        module_types=graph.module_types,
        inputs=[graph.own_name(node.node_name) for node in nodes if node.node_type == INPUT],
        require=scopes.validate_scopes,
    )
    types = {node.node_type for node in nodes}
    unknown = [kind for kind in scopes.types if kind not in types]
    if unknown and scopes.validate_scopes:
        near = difflib.get_close_matches(unknown[0], types, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(types))}."
        msg = f"/quantize/ignored_scopes/types: the network has no operator of type {unknown[0]!r}; {hint}"
        raise ConfigError(msg)
    found = {names[name] for name in matched} | {node.node_name for node in nodes if node.node_type in scopes.types}
    return [node.node_name for node in nodes if node.node_name in found]


def operations_of_scopes(
    teacher: nn.Module, input_shape: tuple[int, int, int], settings: QuantizeSettings
) -> dict[str, list[str]]:
    """The operators, as NNCF 3.x names them, that each scope in the settings stands for; nothing is quantized for it.

    Args:
        teacher: the float network; left as it is.
        input_shape: of one image, (C, H, W).
        settings: whose ignored scopes and bit overrides are looked up.
    """
    example = torch.zeros(1, *input_shape).to(next(teacher.parameters()))
    network = prepare(teacher, example)
    graph = OperatorGraph.trace(network, example)
    nodes = graph.computing_operators()
    names = [graph.own_name(node.node_name) for node in nodes]
    inputs = [graph.own_name(node.node_name) for node in nodes if node.node_type == INPUT]

    def find(scope: str) -> list[str]:
        return match_scopes([scope], names, module_types=graph.module_types, inputs=inputs)

    found = {scope: find(scope) for scope in settings.ignored_scopes.entries()}
    for key in settings.bit_overrides:
        found[key] = find(behind_batchnorm(split_quantizer_scope(key)[0], graph.folded))
    return found
