"""What NNCF's graph of a network says: which operators there are, and who reads what.

This file and ``nncf_steps.py`` are the only places that know NNCF's internals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from nncf.common.graph import NNCFGraph, NNCFNode
from nncf.common.quantization.quantizer_propagation.structs import QuantizationTrait
from nncf.torch.function_hook import is_wrapped, wrap_model
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from nncf.torch.quantization.default_quantization import DEFAULT_PT_QUANT_TRAIT_TO_OP_DICT
from torch import Tensor, nn

# Operators whose output is a rearrangement of their input: a quantizer above them still holds below them.
TRANSPARENT = frozenset(
    alias
    for metatype in DEFAULT_PT_QUANT_TRAIT_TO_OP_DICT[QuantizationTrait.QUANTIZATION_AGNOSTIC]
    for alias in metatype.get_all_aliases()
)
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
MULTIPLY_ACCUMULATE = CONVOLUTIONS | {"linear", "addmm", "matmul", "bmm", "__matmul__"}
_CONSTANT = "nncf_model_const"


@dataclass(frozen=True)
class Operand:
    """One input of one operator."""

    operator: str
    port: int


class OperatorGraph:
    """The operators of one network, under the names NNCF gives them (``layer1/0/conv1/conv2d/0``)."""

    def __init__(self, graph: NNCFGraph) -> None:
        self._graph = graph

    @classmethod
    def trace(cls, network: nn.Module, example: Tensor) -> OperatorGraph:
        """Trace one forward pass of ``example``, (N, C, H, W); an unwrapped ``network`` is wrapped in place."""
        wrapped = network if is_wrapped(network) else wrap_model(network)
        with torch.no_grad():
            return cls(build_nncf_graph(wrapped, example))

    def operators(self, *types: str) -> list[NNCFNode]:
        """Operators in order of execution, all of them or only those of the named torch functions."""
        nodes = self._graph.topological_sort()
        return [node for node in nodes if not types or node.node_type in types]

    def node(self, name: str) -> NNCFNode:
        """The operator of that name."""
        return self._graph.get_node_by_name(name)

    def sources(self, node: NNCFNode) -> dict[int, NNCFNode]:
        """The operators an operator reads, by port; parameters are left out."""
        edges = self._graph.get_input_edges(node)
        return {edge.input_port_id: edge.from_node for edge in edges if edge.from_node.node_type != _CONSTANT}

    def parameters(self, node: NNCFNode) -> dict[int, str]:
        """Dotted names of the parameters an operator reads, by port."""
        edges = self._graph.get_input_edges(node)
        return {
            edge.input_port_id: edge.from_node.layer_attributes.name
            for edge in edges
            if edge.from_node.node_type == _CONSTANT
        }

    def readers(self, node: NNCFNode) -> list[Operand]:
        """The operands that take an operator's output directly."""
        return [Operand(e.to_node.node_name, e.input_port_id) for e in self._graph.get_output_edges(node)]

    def readers_through(self, node: NNCFNode) -> Iterator[Operand]:
        """The operands that see an operator's output once rearranging operators are looked through."""
        for operand in self.readers(node):
            reader = self.node(operand.operator)
            if reader.node_type in TRANSPARENT:
                yield from self.readers_through(reader)
            else:
                yield operand
