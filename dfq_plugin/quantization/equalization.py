"""Before quantization: move size between channels of neighbouring layers, the float function unchanged.

Paper: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
arXiv:1906.04721, section 4.1. Written from the published procedure; the released sources were not used.

Objective: between two layers with only a ReLU (or nothing) in between, channel i can be divided by s_i in the first and
multiplied by s_i in the second. With r1_i and r2_i the largest magnitudes of the channel's weights in the two,
s_i = sqrt(r1_i r2_i) / r2_i makes them equal; over chains of layers this is repeated until nothing moves any more.
High-bias absorption: where a ReLU's input lies above c = max(0, mean - 3 std) nearly always, c is subtracted from the
first bias and what it contributed is added to the second.

Deviations: ReLU6 is left alone, since it is not the same function after scaling. Nothing is absorbed into a convolution
that pads: its padding is zero where the channel would be c.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from nncf.common.graph import NNCFNode
from torch import Tensor, nn

from dfq_plugin.quantization.analytic_ranges import Moments
from dfq_plugin.quantization.nncf_graph import OperatorGraph

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
RECTIFIERS = frozenset({"relu", "relu_"})
# They move, pick or average values within a channel, so that scaling a channel before or after is the same.
CHANNELWISE = RECTIFIERS | {
    "dropout",
    "dropout_",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_avg_pool2d",
}
FLATTENINGS = frozenset({"flatten", "view", "reshape"})
SHIFTING = (CHANNELWISE | FLATTENINGS) - {"avg_pool2d"}  # adding c before is adding c after; padded averages see zeros
PADDING = 4  # place of the padding among the operands of a convolution
ROUNDS, SETTLED = 50, 1e-4
HIGH_BIAS_SIGMAS = 3.0

logger = logging.getLogger("nncf.dfq_plugin.quantize")


@dataclass(frozen=True)
class Pair:
    """Two layers that only a positively homogeneous, channelwise function separates.

    Attributes:
        first: NNCF's name of the first layer's operator.
        second: that of the second.
        between: the types of the operators in between.
    """

    first: str
    second: str
    between: tuple[str, ...]


def find_pairs(graph: OperatorGraph) -> list[Pair]:
    """All pairs of layers that can be equalized, in order of execution."""
    uses = Counter(name for node in graph.operators() for name in graph.parameters(node).values())
    layers = {node.node_name: node for node in graph.operators(*LAYERS) if _is_own_layer(node, graph, uses)}
    pairs = []
    for first in layers.values():
        between: list[str] = []
        node: NNCFNode | None = first
        while node is not None and len(graph.readers(node)) == 1:
            reader = graph.node(graph.readers(node)[0].operator)
            if reader.node_name in layers:
                pairs.append(Pair(first.node_name, reader.node_name, tuple(between)))
            between.append(reader.node_type)
            node = reader if reader.node_type in CHANNELWISE or _flattens(reader, graph) else None
    return pairs


def _is_own_layer(node: NNCFNode, graph: OperatorGraph, uses: Counter[str]) -> bool:
    """Whether an operator has a weight and perhaps a bias that no other one uses, and gives (N, channels, ...)."""
    parameters = graph.parameters(node)
    alone = 1 in parameters and all(uses[name] == 1 for name in parameters.values())
    return alone and (node.node_type != "linear" or len(graph.output_shape(node)) == 2)


def _flattens(node: NNCFNode, graph: OperatorGraph) -> bool:
    """Whether an operator puts (N, channels, ...) into (N, values), channel after channel."""
    return node.node_type in FLATTENINGS and len(graph.output_shape(node)) == 2


@torch.no_grad()
def equalize(network: nn.Module, graph: OperatorGraph, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Equalize the ranges of the weights of each pair, in place.

    Args:
        network: without BatchNorm.
        graph: its operators.
        pairs: from ``find_pairs``.

    Returns:
        By what each channel of each first layer was divided, (channels,).
    """
    divided = {pair.first: torch.ones(()) for pair in pairs}
    for _ in range(ROUNDS):
        moved = 0.0
        for pair in pairs:
            first, second = _Layer(network, graph, pair.first), _Layer(network, graph, pair.second)
            columns = second.by_input_channel(len(first.weight))
            out_range = first.weight.flatten(1).abs().amax(dim=1)
            in_range = columns.abs().amax(dim=(1, 3)).flatten()
            ratio = (out_range / in_range).sqrt()
            ratio = ratio.where(torch.isfinite(ratio) & (ratio > 0), 1.0)  # a dead channel stays as it is
            first.divide(ratio)
            columns.mul_(ratio.reshape(len(columns), 1, -1, 1))
            divided[pair.first] = divided[pair.first] * ratio
            moved = max(moved, (ratio - 1).abs().max().item())
        if moved < SETTLED:
            break
    return divided


@torch.no_grad()
def absorb_high_biases(
    network: nn.Module, graph: OperatorGraph, pairs: Sequence[Pair], moments: Mapping[str, Moments]
) -> dict[str, Tensor]:
    """Move what a ReLU passes nearly always from the first bias of a pair to the second, in place.

    Exact for inputs above the absorbed value, which a normal distribution leaves in one of 740 cases.

    Args:
        network: without BatchNorm.
        graph: its operators.
        pairs: from ``find_pairs``.
        moments: of what the first layers give, as they are now.

    Returns:
        What was subtracted from each bias, (channels,), by first layer.
    """
    absorbed = {}
    for pair in pairs:
        first, second = _Layer(network, graph, pair.first), _Layer(network, graph, pair.second)
        known = moments.get(pair.first)
        takes = RECTIFIERS & set(pair.between) and set(pair.between) <= SHIFTING and not second.pads()
        if known is None or first.bias is None or second.bias is None or not takes:
            continue
        excess = (known.mean - HIGH_BIAS_SIGMAS * known.std).clamp(min=0)
        columns = second.by_input_channel(len(excess))
        first.bias.sub_(excess)
        second.bias.add_((columns * excess.reshape(len(columns), 1, -1, 1)).sum(dim=(2, 3)).flatten())
        absorbed[pair.first] = excess
    return absorbed


def equalize_all(network: nn.Module, graph: OperatorGraph, moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Equalize every pair of layers and absorb high biases, in place.

    Args:
        network: without BatchNorm.
        graph: its operators.
        moments: of what its layers give.

    Returns:
        The moments as they are now.
    """
    pairs, moved = find_pairs(graph), dict(moments)
    for operator, ratio in equalize(network, graph, pairs).items():
        if operator in moved:
            moved[operator] = Moments(moved[operator].mean / ratio, moved[operator].std / ratio)
    for operator, excess in absorb_high_biases(network, graph, pairs, moved).items():
        moved[operator] = Moments(moved[operator].mean - excess, moved[operator].std)
    logger.info("Equalized %d pairs of layers", len(pairs))
    return moved


class _Layer:
    """One layer's parameters."""

    def __init__(self, network: nn.Module, graph: OperatorGraph, operator: str) -> None:
        self._node = graph.node(operator)
        names = graph.parameters(self._node)
        self.weight = network.get_parameter(names[1])
        self.bias = network.get_parameter(names[2]) if 2 in names else None

    def by_input_channel(self, channels: int) -> Tensor:
        """The weight itself, seen as (groups, outputs of a group, inputs of a group, values of a channel)."""
        groups = 1 if self._node.node_type == "linear" else channels // self.weight.shape[1]
        return self.weight.view(groups, len(self.weight) // groups, channels // groups, -1)

    def divide(self, ratio: Tensor) -> None:
        """Divide what the layer gives, channel by channel."""
        self.weight.div_(ratio.reshape(-1, *[1] * (self.weight.ndim - 1)))
        if self.bias is not None:
            self.bias.div_(ratio)

    def pads(self) -> bool:
        """Whether the layer reads values from beyond the edge of its input."""
        attributes = self._node.layer_attributes
        padding = attributes.op_kwargs.get("padding", 0)
        if len(attributes.op_args) > PADDING:
            padding = attributes.op_args[PADDING]
        return self._node.node_type != "linear" and padding not in (0, "valid", (0,), (0, 0), [0, 0])
