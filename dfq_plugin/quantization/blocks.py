"""Blocks of a network, found from its structure, and a way to run one of them alone.

A block goes from one tensor through which everything passes to the next such tensor, so that a residual branch and the
identity beside it are one block. Layers that no such tensor separates stay together, whatever their classes are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from nncf.common.graph import NNCFNode
from nncf.torch.function_hook.hook_executor_mode import OpMeta
from nncf.torch.function_hook.hook_storage import decode_hook_name
from torch import Tensor, nn

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.nncf_graph import CONVOLUTIONS, INPUT, MULTIPLY_ACCUMULATE, OperatorGraph
from dfq_plugin.quantization.operator_mode import OperatorMode
from dfq_plugin.student import QuantizerSite

_SPLITS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unbind"})  # give several tensors


@dataclass(frozen=True)
class Block:
    """A part of a network with one input tensor and one output tensor.

    Attributes:
        entry: NNCF's name of the operator whose output the block reads.
        operators: the operators in it, in order of execution; the last one's output is the block's.
        is_first: whether the block reads the network's input.
    """

    entry: str
    operators: tuple[str, ...]
    is_first: bool

    @property
    def exit(self) -> str:
        """The operator whose output the block gives."""
        return self.operators[-1]

    def holds(self, site: QuantizerSite) -> bool:
        """Whether a quantizer is used in the block: one behind its entry is, one behind its exit is not."""
        when, operator, _ = decode_hook_name(site.name)
        if when == "pre_hooks":
            return operator in self.operators
        return operator == self.entry or operator in self.operators[:-1]


def find_blocks(graph: OperatorGraph, network: nn.Module) -> list[Block]:
    """Cut a network into blocks, in order of execution.

    A block begins in front of a layer with weights; activations and poolings stay with the layer before them. A layer
    that mixes no channels (depthwise) stays with the one after it. And no block ends at a tensor that is larger than
    those at which its neighbours end: an inverted bottleneck is one block, and what has to be kept between blocks is
    small.

    Args:
        graph: the network's operators.
        network: what the graph was made of.
    """
    nodes = graph.computing_operators()
    cuts = list(_cuts(nodes, graph))
    edges, mixed = [cuts[0]], False  # whether channels have been mixed since the last edge
    for here, following in pairwise(cuts):
        layers = [node for node in nodes[here + 1 : following + 1] if _has_weight(node, graph)]
        if layers and mixed:
            edges.append(here)
        if layers:
            mixed = any(not _is_depthwise(node, graph, network) for node in layers)
    sizes = {edge: prod(graph.output_shape(nodes[edge])) for edge in (*edges, cuts[-1])}
    edges = _without_peaks([*edges, cuts[-1]], sizes)
    return [
        Block(
            nodes[start].node_name,
            tuple(node.node_name for node in nodes[start + 1 : end + 1]),
            nodes[start].node_type == INPUT,
        )
        for start, end in pairwise(edges)
    ]


def _cuts(nodes: Sequence[NNCFNode], graph: OperatorGraph) -> Iterator[int]:
    """Places in the order of execution where all that is still to be read is the one tensor just computed."""
    place = {node.node_name: index for index, node in enumerate(nodes)}
    last_read = [
        max((place.get(operand.operator, len(nodes)) for operand in graph.readers(node)), default=-1) for node in nodes
    ]
    open_until = -1  # the last place at which something computed earlier is read
    for index, until in enumerate(last_read):
        if until > index and open_until <= index and nodes[index].node_type not in _SPLITS:
            yield index
        open_until = max(open_until, until)


def _without_peaks(edges: Sequence[int], sizes: dict[int, int]) -> list[int]:
    inner = [
        edge
        for before, edge, after in zip(edges, edges[1:], edges[2:], strict=False)
        if sizes[edge] <= max(sizes[before], sizes[after])
    ]
    return [edges[0], *inner, edges[-1]]


def _has_weight(node: NNCFNode, graph: OperatorGraph) -> bool:
    return node.node_type in MULTIPLY_ACCUMULATE and 1 in graph.parameters(node)


def _is_depthwise(node: NNCFNode, graph: OperatorGraph, network: nn.Module) -> bool:
    """Whether each output channel of a layer reads one input channel of several."""
    if node.node_type not in CONVOLUTIONS:
        return False
    weight = network.get_parameter(graph.parameters(node)[1])
    return weight.shape[1] == 1 and graph.output_shape(graph.sources(node)[0])[1] > 1


class BlockRunner:
    """Runs one block of a hooked network alone, with whatever quantizers are in it.

    The network's own code runs, on one image; at the block's entry the given tensor takes the place of what was
    computed, at its exit the run ends. What lies before the entry is computed once and remembered.

    Args:
        network: hooked by NNCF.
        block: which part of it.
        image: (1, C, H, W), any image.
    """

    def __init__(self, network: nn.Module, block: Block, image: Tensor) -> None:
        self._network = network
        self._block = block
        self._image = image
        self._remembered: dict[str, Any] = {}

    def __call__(self, values: Tensor) -> Tensor:
        """The block's output for its input ``values``, which it may overwrite; any number of images."""
        image = values if self._block.is_first else self._image
        try:
            _BlockMode(self._network, self._block, values, self._remembered).run(image)
        except _ExitReached as reached:
            return reached.output
        msg = f"The network ended before {self._block.exit}, which it executed when it was traced."
        raise UnsupportedModelError(msg)


class _ExitReached(Exception):  # noqa: N818 - the normal end of a run
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class _BlockMode(OperatorMode):
    """Executes a network from a block's entry to its exit.

    Args:
        network: hooked by NNCF.
        block: which part of it.
        values: the block's input.
        remembered: results of the operators before the entry, filled on the first run.
    """

    def __init__(self, network: nn.Module, block: Block, values: Tensor, remembered: dict[str, Any]) -> None:
        super().__init__(network)
        self._block = block
        self._values = values
        self._remembered = remembered
        self._entered = block.is_first

    def execute(self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        name = operator.op_name
        if not self._entered and name == self._block.entry:
            self._entered = True
            return self.quantize_result(operator, self._values)
        if not self._entered and name in self._remembered:
            return self._remembered[name]
        args, kwargs = self.quantize_operands(operator, args, kwargs)
        output = operator.func(*args, **kwargs)
        if name == self._block.exit:
            raise _ExitReached(output)
        output = self.quantize_result(operator, output)
        if not self._entered:
            self._remembered[name] = output
        return output
