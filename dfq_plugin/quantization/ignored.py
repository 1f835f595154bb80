"""Which operators stay in float: names, patterns and types from the config, found in the network."""

from __future__ import annotations

import difflib

from dfq_plugin.config.quantize_settings import IgnoredScopes
from dfq_plugin.config.scopes import match_scopes
from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization.nncf_graph import INPUT, OperatorGraph


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
