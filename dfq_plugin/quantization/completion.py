"""Make NNCF's placement one that integer kernels can run from end to end.

NNCF places quantizers for its own targets: it leaves out what these fuse or keep in float (squeeze-excite blocks,
hard-swish, attention), and may quantize one tensor several times, once for each reader. onnxruntime's integer kernels
want one thing: every operand and every result on a grid. So each tensor that an integer kernel reads gets exactly one
quantizer, where it is computed; a convolution's result gets one too, behind its activation function. The parts of a
concatenation share one, so that concatenating them only moves codes. Quantizers that only float operators would see
are taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nncf.common.graph import NNCFNode
from nncf.common.quantization.structs import QuantizationScheme
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.quantization.layers import AsymmetricQuantizer, BaseQuantizer, SymmetricQuantizer
from torch import nn

from dfq_plugin.extremes import DEAD_CHANNEL_REACH
from dfq_plugin.quantization.nncf_graph import (
    CONCATENATIONS,
    CONVOLUTIONS,
    MULTIPLY_ACCUMULATE,
    TRANSPARENT,
    OperatorGraph,
)
from dfq_plugin.quantization.placement import placed_quantizers, remove_quantizers, specification
from dfq_plugin.quantization.ranges import set_limits

# Activation functions that integer kernels apply for nothing: they are limits of the codes.
RECTIFIERS = frozenset({"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_"})
ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})
MULTIPLICATIONS = frozenset({"mul", "mul_", "__mul__", "__imul__", "__rmul__"})
UNARY = frozenset({"avg_pool2d", "adaptive_avg_pool2d", "mean", "sigmoid", "sigmoid_", "leaky_relu", "leaky_relu_"})
HALF_OF_CODES = 2.0  # by what NNCF's guard against overflow widens the range of an 8-bit weight


class Completion:
    """The placement that integer kernels want, worked out for one network.

    Args:
        graph: the network as it was before NNCF placed quantizers in it.
        ignored: operators that stay in float.
        quantize_activations: whether anything but weights is quantized.
        quantize_outputs: whether the network's output is quantized.
        only_rectified: quantize what leaves a ReLU, ReLU6 or the like, and nothing else but weights: the placement of
            the papers instead of the one that integer kernels want.
    """

    def __init__(
        self,
        graph: OperatorGraph,
        ignored: Sequence[str],
        *,
        quantize_activations: bool = True,
        quantize_outputs: bool = False,
        only_rectified: bool = False,
    ) -> None:
        self._graph = graph
        self._ignored = frozenset(ignored)
        self._live = graph.fed_by_input()
        self.kernels = [node for node in graph.operators() if self._has_integer_kernel(node)]
        self._group_of: dict[str, int] = {}
        if quantize_activations and only_rectified:
            for node in graph.operators(*RECTIFIERS):
                if node.node_name in self._live - self._ignored:
                    self._want({node.node_name})
        elif quantize_activations:
            self._want_operands_and_results(quantize_outputs=quantize_outputs)

    def _want_operands_and_results(self, *, quantize_outputs: bool) -> None:
        for kernel in self.kernels:
            for port in self._operand_ports(kernel):
                self._want(self._carriers(kernel, port))
            if kernel.node_type in CONVOLUTIONS:
                self._want({self._result(kernel)})
        if quantize_outputs:
            for node in self._graph.outputs():
                self._want(self._carriers(node, 0))

    @property
    def groups(self) -> list[list[str]]:
        """The operators whose results are quantized, those with one grid together, in order of execution."""
        groups: dict[int, list[str]] = {}
        for node in self._graph.operators():
            if node.node_name in self._group_of:
                groups.setdefault(self._group_of[node.node_name], []).append(node.node_name)
        return list(groups.values())

    def carriers(self, when: str, operator: str, port: int) -> set[str]:
        """The operators that computed the tensor at a hook of NNCF's, rearranging operators looked through."""
        node = self._graph.node(operator)
        if when == "pre_hooks":
            return self._carriers(node, port)
        return self._carriers(node, 0) if self._is_passage(node) else {operator}

    def _has_integer_kernel(self, node: NNCFNode) -> bool:
        name, kind = node.node_name, node.node_type
        if name in self._ignored or name not in self._live:
            return False
        operands = self._operand_ports(node)
        if kind in MULTIPLY_ACCUMULATE:
            return bool(operands) and (1 in operands or 1 in self._graph.parameters(node))
        return (kind in ADDITIONS | MULTIPLICATIONS and len(operands) == 2) or (kind in UNARY and bool(operands))

    def _operand_ports(self, node: NNCFNode) -> list[int]:
        """The ports on which an operator reads something that depends on the network's input."""
        return [port for port, source in self._graph.sources(node).items() if source.node_name in self._live]

    def _is_passage(self, node: NNCFNode) -> bool:
        return node.node_type in TRANSPARENT | CONCATENATIONS

    def _carriers(self, node: NNCFNode, port: int) -> set[str]:
        source = self._graph.sources(node).get(port)
        if source is None:
            return set()
        if source.node_type in TRANSPARENT:
            return self._carriers(source, 0)
        if source.node_type in CONCATENATIONS:
            return {name for part in self._operand_ports(source) for name in self._carriers(source, part)}
        return {source.node_name}

    def _result(self, kernel: NNCFNode) -> str:
        """Where the result of a kernel is quantized: behind the rectifier that alone reads it, if there is one."""
        readers = self._graph.readers(kernel)
        only = self._graph.node(readers[0].operator) if len(readers) == 1 else kernel
        name: str = only.node_name if only.node_type in RECTIFIERS else kernel.node_name
        return name

    def _want(self, tensors: set[str]) -> None:
        """Quantize these tensors on one grid, together with all that already share one with any of them."""
        joined = {self._group_of[name] for name in tensors if name in self._group_of}
        number = min(joined, default=len(self._group_of))
        for name, group in self._group_of.items():
            if group in joined:
                self._group_of[name] = number
        self._group_of.update(dict.fromkeys(tensors, number))


def complete(
    network: nn.Module, completion: Completion, graph: OperatorGraph, *, preset: str, overflow_fix: str
) -> set[str]:
    """Move, merge, add and remove quantizers until the placement is the one worked out.

    Args:
        network: hooked by NNCF; changed in place.
        completion: what is wanted.
        graph: the network as it was before.
        preset: whether new quantizers of activations are symmetric (``performance``) or not (``mixed``).
        overflow_fix: as in the settings; new quantizers of weights follow it.

    Returns:
        The hooks of quantizers that NNCF did not place: they have no range yet.
    """
    storage = get_hook_storage(network)
    kernels = {node.node_name for node in completion.kernels}
    placed: dict[str, list[Any]] = {}
    weighted = set()
    for names in placed_quantizers(network).values():
        when, operator, port = decode_hook_name(names[0])
        if when == "pre_hooks" and port in graph.parameters(graph.node(operator)):
            if operator in kernels:
                weighted.add(operator)
            else:
                remove_quantizers(network, names)
            continue
        quantizer = storage.get_submodule(names[0])
        for place in map(decode_hook_name, names):
            for carrier in completion.carriers(*place):
                placed.setdefault(carrier, []).append(quantizer)
        remove_quantizers(network, names)
    device = next(network.parameters()).device
    fresh = set()
    for group in completion.groups:
        known = list(dict.fromkeys(quantizer for name in group for quantizer in placed.get(name, ())))
        quantizer = _merge(known) if known else _new_quantizer(preset).to(device)
        hooks = [storage.register_post_function_hook(name, 0, quantizer) for name in group]
        if not known:
            fresh.add(f"post_hooks.{hooks[0].key}.{hooks[0].id}")
    for node in completion.kernels:
        if 1 in graph.parameters(node) and node.node_type in MULTIPLY_ACCUMULATE and node.node_name not in weighted:
            quantizer = _weight_quantizer(node, network.get_parameter(graph.parameters(node)[1]), overflow_fix)
            storage.register_pre_function_hook(node.node_name, 1, quantizer.to(device))
    return fresh


def _merge(quantizers: Sequence[Any]) -> Any:  # noqa: ANN401 - NNCF quantizers
    """One quantizer that reaches as far as all of them."""
    first = quantizers[0]
    if len(quantizers) > 1:
        with torch.no_grad():
            edges = [[edge.min().item() for edge in each.get_input_low_input_high()] for each in quantizers]
        set_limits(first, min(low for low, _ in edges), max(high for _, high in edges))
    return first


def _new_quantizer(preset: str) -> BaseQuantizer:
    scheme = QuantizationScheme.SYMMETRIC if preset == "performance" else QuantizationScheme.ASYMMETRIC
    kind = SymmetricQuantizer if preset == "performance" else AsymmetricQuantizer
    return kind(specification(scheme, (1,)))


def _weight_quantizer(node: NNCFNode, weight: nn.Parameter, overflow_fix: str) -> BaseQuantizer:
    """A quantizer of the weight as NNCF would have placed it: symmetric, a step for each output channel."""
    axis = 1 if node.node_type.startswith("conv_transpose") else 0
    if node.node_type in {"matmul", "__matmul__", "bmm"}:
        axis = weight.ndim - 1
    largest = weight.detach().abs().amax([other for other in range(weight.ndim) if other != axis], keepdim=True)
    floor = largest.max().clamp(min=torch.finfo(largest.dtype).tiny) * DEAD_CHANNEL_REACH
    quantizer = SymmetricQuantizer(specification(QuantizationScheme.SYMMETRIC, largest.shape, narrow=True))
    quantizer.signed = True
    scale = largest.clamp(min=floor.item())
    quantizer.scale.data.copy_(scale * HALF_OF_CODES if overflow_fix == "enable" else scale)
    return quantizer
