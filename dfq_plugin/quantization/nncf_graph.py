"""What NNCF's graph of a network says: which operators there are, and who reads what.

This room is the only one that knows NNCF's internals: this file how to read its graph, the others what to do with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from nncf.common.graph import NNCFGraph, NNCFNode
from nncf.torch.function_hook import is_wrapped, wrap_model
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from torch import Tensor, nn

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.decompose import Decomposed

# Operators whose output is a rearrangement of their input: a quantizer above them still holds below them.
TRANSPARENT = frozenset(
    {"__getitem__", "select", "slice", "narrow", "gather", "index_select", "take_along_dim", "roll", "flip"}
    | {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "expand", "expand_as", "repeat", "tile"}
    | {"repeat_interleave", "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as", "permute", "transpose"}
    | {"transpose_", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "squeeze", "squeeze_", "unsqueeze"}
    | {"unsqueeze_", "clone", "contiguous", "detach", "detach_", "to", "float", "noop", "dropout", "dropout_"}
    | {"dropout2d", "feature_dropout", "alpha_dropout", "pad", "max_pool1d", "max_pool2d", "max_pool3d"}
    | {"adaptive_max_pool2d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"}
    | {"upsample_nearest2d"}
)
CONCATENATIONS = frozenset({"cat", "concat", "concatenate", "stack"})
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
MULTIPLY_ACCUMULATE = CONVOLUTIONS | {"linear", "addmm", "matmul", "bmm", "__matmul__"}
INPUT = "nncf_model_input"
_ASK_FOR_SHAPE = frozenset({"reshape_as", "view_as", "expand_as"})  # of their second operand
_OUTPUT = "nncf_model_output"
_CONSTANT = "nncf_model_const"


class Body(nn.Module):
    """Holds the network one level down, out of reach of what NNCF adds to the top level.

    NNCF keeps its hooks in a submodule there, which a network that loops over its own layers, such as
    ``nn.Sequential``, would take for one of them.

    Args:
        network: the network.
        decomposed: whether compound operators run as their parts.

    Attributes:
        folded: the layers that BatchNorm layers were folded into, both by name in the network, as ``layer1/0/conv1``.
    """

    def __init__(self, network: nn.Module, *, decomposed: bool = False) -> None:
        super().__init__()
        self.network = network
        self.decomposed = decomposed
        self.folded: dict[str, str] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Run the network on ``images``, (N, C, H, W)."""
        with Decomposed() if self.decomposed else nullcontext():
            output: Tensor = self.network(images)
        return output


@dataclass(frozen=True)
class Operand:
    """One input of one operator."""

    operator: str
    port: int


class OperatorGraph:
    """The operators of one network, under the names NNCF gives them (``network/layer1/0/conv1/conv2d/0``).

    Args:
        graph: as NNCF builds it.
        body: what it was built from.
    """

    def __init__(self, graph: NNCFGraph, body: Body) -> None:
        self._graph = graph
        self._network = body.network
        self.folded = dict(body.folded)

    @classmethod
    def trace(cls, body: Body, example: Tensor) -> OperatorGraph:
        """Trace one forward pass of ``example``, (N, C, H, W); an unwrapped ``body`` is wrapped in place.

        Raises:
            UnsupportedModelError: the network gives something else than one tensor.
        """
        wrapped = body if is_wrapped(body) else wrap_model(body)
        with torch.no_grad():
            output = wrapped(example)
            if not isinstance(output, Tensor):
                kind = type(output).__name__
                msg = f"{type(body.network).__name__} returns a {kind}; wrap it in a module that returns one tensor."
                raise UnsupportedModelError(msg)
            return cls(build_nncf_graph(wrapped, example), body)

    @property
    def module_types(self) -> Mapping[str, str]:
        """Class name of each module by dotted name, the network itself under ``""``."""
        return {name: type(module).__name__ for name, module in self._network.named_modules()}

    def own_name(self, operator: str) -> str:
        """The name of an operator as NNCF would write it without the ``Body`` around the network."""
        name = operator.removeprefix("network/")
        return f"/{name}" if name.count("/") == 1 else name  # an operator of the network itself, in no layer

    def operators(self, *types: str) -> list[NNCFNode]:
        """Operators in order of execution, all of them or only those of the named torch functions."""
        nodes = self._graph.topological_sort()
        return [node for node in nodes if not types or node.node_type in types]

    def computing_operators(self) -> list[NNCFNode]:
        """Operators in order of execution without parameters and the network's outputs; its inputs are among them."""
        return [node for node in self.operators() if node.node_type not in (_CONSTANT, _OUTPUT)]

    def outputs(self) -> list[NNCFNode]:
        """The network's outputs."""
        return self.operators(_OUTPUT)

    def fed_by_input(self) -> set[str]:
        """Names of the operators whose result depends on the network's input; the others compute constants."""
        fed: set[str] = set()
        for node in self.operators():
            if node.node_type == INPUT or any(source.node_name in fed for source in self.sources(node).values()):
                fed.add(node.node_name)
        return fed

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

    def output_shape(self, node: NNCFNode) -> Sequence[int]:
        """Shape of what an operator gives to its first reader, for the batch that was traced."""
        shape: Sequence[int] = next(iter(self._graph.get_output_edges(node))).tensor_shape
        return shape

    def readers(self, node: NNCFNode) -> list[Operand]:
        """The operands that take an operator's output directly; what only asks for its shape is none."""
        edges = self._graph.get_output_edges(node)
        return [
            Operand(edge.to_node.node_name, edge.input_port_id)
            for edge in edges
            if not (edge.to_node.node_type in _ASK_FOR_SHAPE and edge.input_port_id == 1)
        ]

    def readers_through(self, node: NNCFNode) -> Iterator[Operand]:
        """The operands that see an operator's output once rearranging operators are looked through."""
        for operand in self.readers(node):
            reader = self.node(operand.operator)
            if reader.node_type in TRANSPARENT | CONCATENATIONS:
                yield from self.readers_through(reader)
            else:
                yield operand
