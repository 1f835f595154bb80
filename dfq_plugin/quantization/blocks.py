"""Blocks of a network, found from its structure, and a way to run one of them alone.

A block goes from one tensor through which everything passes to the next such tensor, so that a residual branch and the
identity beside it are one block. Layers that no such tensor separates stay together, whatever their classes are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import torch
from nncf.common.graph import NNCFNode
from nncf.torch.function_hook.hook_executor_mode import OpMeta
from nncf.torch.function_hook.hook_storage import decode_hook_name
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.nncf_graph import CONVOLUTIONS, INPUT, MULTIPLY_ACCUMULATE, OperatorGraph
from dfq_plugin.quantization.operator_mode import OperatorMode, tensors_in
from dfq_plugin.student import QuantizerSite

Watcher = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
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

    The network's own code runs; at the block's entry the given tensor takes the place of what was computed, at its exit
    the run ends. What lies before the entry is computed once, for one image, and remembered. Later runs see empty
    tensors in its place that are as large as those of all images would be: nothing but their shapes is ever read.

    Args:
        network: hooked by NNCF.
        block: which part of it.
        image: (1, C, H, W), any image.
    """

    def __init__(self, network: nn.Module, block: Block, image: Tensor) -> None:
        self._network = network
        self._block = block
        self._image = image
        self._prefix: _Prefix | None = None

    def __call__(self, values: Tensor, watch: Mapping[str, Watcher] | None = None) -> Tensor:
        """The block's output for its input ``values``, which it may overwrite; any number of images.

        Args:
            values: (N, ...).
            watch: by operator of the block, what is told of its operands, quantized, before it computes.
        """
        image, prefix = values, None
        if not self._block.is_first:
            self._prefix = prefix = self._prefix or self._read_prefix()
            image = self._image.expand(prefix.images_in(values), *self._image.shape[1:])
        try:
            _BlockMode(self._network, self._block, values, prefix, watch or {}).run(image)
        except _ExitReached as reached:
            return reached.output
        msg = f"The network ended before {self._block.exit}, which it executed when it was traced."
        raise UnsupportedModelError(msg)

    @torch.no_grad()
    def run_all(self, values: Tensor, batch_size: int, watch: Mapping[str, Watcher] | None = None) -> Tensor:
        """The block's output for ``values``, which stay as they are, batch by batch; kept where they are."""
        device = self._image.device
        parts = values.split(batch_size)
        return torch.cat([self(part.to(device, copy=True), watch).to(values.device) for part in parts])

    def _read_prefix(self) -> _Prefix:
        mode = _PrefixMode(self._network, self._block.entry, self._image)
        with suppress(_ExitReached):
            mode.run(self._image)
        return mode.prefix


@dataclass
class _Prefix:
    """What a network computes before a block's entry, for one image.

    Attributes:
        results: by operator.
        live: the operators whose result depends on the image.
        rows: length of the first axis of what the entry gives.
    """

    results: dict[str, Any] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    rows: int = 1

    def images_in(self, values: Tensor) -> int:
        """How many images the input of the block stands for."""
        return max(1, len(values) // self.rows)

    def stand_in(self, name: str, images: int) -> Any:  # noqa: ANN401 - whatever the operator gives
        """What the operator would give for so many images, as far as shapes go; a constant is itself."""
        found = self.results[name]
        return _repeated(found, images) if name in self.live else found


def _repeated(result: Any, images: int) -> Any:  # noqa: ANN401
    """Zeros in the shape that a result has for so many images; they take no memory."""
    if isinstance(result, list | tuple):
        return type(result)([_repeated(part, images) for part in result])
    if not isinstance(result, Tensor) or result.ndim == 0:
        return result
    return result.new_zeros(()).expand(len(result) * images, *result.shape[1:])


class _ExitReached(Exception):  # noqa: N818 - the normal end of a run
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class _PrefixMode(OperatorMode):
    """Executes a network up to an operator and keeps what it computed."""

    def __init__(self, network: nn.Module, entry: str, image: Tensor) -> None:
        super().__init__(network)
        self.prefix = _Prefix()
        self._entry = entry
        self._live = WeakTensorKeyDictionary()
        self._live[image] = True

    def execute(self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        live = any(each in self._live for each in tensors_in((*args, *kwargs.values())))
        args, kwargs = self.quantize_operands(operator, args, kwargs)
        output = operator.func(*args, **kwargs)
        if operator.op_name == self._entry:
            self.prefix.rows = len(output)
            raise _ExitReached(output)
        output = self.quantize_result(operator, output)
        self.prefix.results[operator.op_name] = output
        if live:
            self.prefix.live.add(operator.op_name)
            for each in tensors_in((output,)):
                self._live[each] = True
        return output


class _BlockMode(OperatorMode):
    """Executes a network from a block's entry to its exit.

    Args:
        network: hooked by NNCF.
        block: which part of it.
        values: the block's input.
        prefix: what lies before the entry; None for the first block.
        watch: told of the operands of some operators.
    """

    def __init__(
        self, network: nn.Module, block: Block, values: Tensor, prefix: _Prefix | None, watch: Mapping[str, Watcher]
    ) -> None:
        super().__init__(network)
        self._block, self._values, self._prefix, self._watch = block, values, prefix, watch

    def execute(self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        name, prefix = operator.op_name, self._prefix
        if prefix is not None and name == self._block.entry:
            self._prefix = None
            return self.quantize_result(operator, self._values)
        if prefix is not None and name in prefix.results:
            return prefix.stand_in(name, prefix.images_in(self._values))
        args, kwargs = self.quantize_operands(operator, args, kwargs)
        if name in self._watch:
            self._watch[name](args, kwargs)
        output = operator.func(*args, **kwargs)
        if name == self._block.exit:
            raise _ExitReached(output)
        return self.quantize_result(operator, output)
