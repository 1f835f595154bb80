"""Which quantizers NNCF placed, what each of them quantizes, and which layers multiply what they quantize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nncf.common.graph import NNCFNode
from nncf.common.quantization.structs import QuantizationScheme
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.quantization.layers import BaseQuantizer, PTQuantizerSpec
from torch import nn

from dfq_plugin.quantization.nncf_graph import CONCATENATIONS, INPUT, MULTIPLY_ACCUMULATE, TRANSPARENT, OperatorGraph
from dfq_plugin.student import ProductLayer, QuantizerSite

Place = tuple[str, str, int]  # "pre_hooks" or "post_hooks", the operator, and which of its inputs or outputs


def placed_quantizers(network: nn.Module) -> dict[str, list[str]]:
    """The hooks that hold each quantizer, by the first: NNCF lets the parts of a concatenation share one."""
    hooks: dict[nn.Module, list[str]] = {}
    for name, hook in get_hook_storage(network).named_hooks(remove_duplicate=False):
        if isinstance(hook, BaseQuantizer):
            hooks.setdefault(hook, []).append(name)
    return {names[0]: names for names in hooks.values()}


def quantizer_of(network: nn.Module, name: str) -> Any:  # noqa: ANN401 - an NNCF quantizer
    """The quantizer in the hook of that name."""
    return get_hook_storage(network).get_submodule(name)


def remove_quantizers(network: nn.Module, names: Iterable[str]) -> None:
    """Take the hooks of those names out, so that what they quantized stays in float."""
    for name in names:
        get_hook_storage(network).delete_hook(name)


def specification(scheme: QuantizationScheme, shape: Sequence[int], *, narrow: bool = False) -> PTQuantizerSpec:
    """What NNCF makes an 8-bit quantizer from.

    Args:
        scheme: symmetric or asymmetric.
        shape: of its ranges.
        narrow: leave out the lowest code.
    """
    return PTQuantizerSpec(
        num_bits=8,
        mode=scheme,
        signedness_to_force=None,
        narrow_range=narrow,
        half_range=False,
        scale_shape=tuple(shape),
        logarithm_scale=False,
    )


def find_sites(hooks: Mapping[str, Sequence[str]], graph: OperatorGraph) -> list[QuantizerSite]:
    """Describe the quantizers in these hooks, one site a quantizer."""
    return [_site(names, graph) for names in hooks.values()]


def _site(hooks: Sequence[str], graph: OperatorGraph) -> QuantizerSite:
    """Describe the quantizer that stands in these hooks."""
    places = [decode_hook_name(name) for name in hooks]
    layers = [graph.own_name(operator) for _, operator, _ in places]
    when, operator, port = places[0]
    if when == "pre_hooks" and port in graph.parameters(graph.node(operator)):
        return QuantizerSite(hooks[0], "weight", layers[0], (layers[0],), multiplied=True)
    readers = dict.fromkeys(reader for place in places for reader in _readers(place, graph))
    return QuantizerSite(
        hooks[0],
        "activation",
        layers[0],
        tuple(graph.own_name(reader) for reader in readers),
        multiplied=any(graph.node(reader).node_type in MULTIPLY_ACCUMULATE for reader in readers),
        is_input=all(_origin(place, graph).node_type == INPUT for place in places),
        others=tuple(layers[1:]),
    )


def _readers(place: Place, graph: OperatorGraph) -> Iterator[str]:
    """The operators that read what is quantized there."""
    when, operator, _ = place
    node = graph.node(operator)
    if when == "post_hooks" or node.node_type in TRANSPARENT | CONCATENATIONS:
        yield from (operand.operator for operand in graph.readers_through(node))
    else:
        yield operator


def _origin(place: Place, graph: OperatorGraph) -> NNCFNode:
    """The operator that computed what is quantized there."""
    when, operator, port = place
    node = graph.node(operator)
    source = graph.sources(node).get(port) if when == "pre_hooks" else node
    while source is not None:
        node = source
        source = graph.sources(node).get(0) if node.node_type in TRANSPARENT else None
    return node


def find_layers(
    hooks: Mapping[str, Sequence[str]], sites: Sequence[QuantizerSite], graph: OperatorGraph
) -> list[ProductLayer]:
    """Every operator that multiplies by a parameter, in order of execution."""
    weights = {site.layer: site.name for site in sites if site.kind == "weight"}
    quantizers = {decode_hook_name(name): first for first, names in hooks.items() for name in names}
    layers = []
    for node in graph.operators(*MULTIPLY_ACCUMULATE):
        parameters = graph.parameters(node)
        if 1 in parameters:
            name = graph.own_name(node.node_name)
            operand = _operand_quantizer(node, 0, quantizers, graph)
            layers.append(ProductLayer(name, parameters[1], parameters.get(2), weights.get(name), operand))
    return layers


def _operand_quantizer(node: NNCFNode, port: int, quantizers: Mapping[Place, str], graph: OperatorGraph) -> str | None:
    """The quantizer whose grid an operand is on: its own, or that of what it is a rearrangement of."""
    before = quantizers.get(("pre_hooks", node.node_name, port))
    source = graph.sources(node).get(port)
    if before is not None or source is None:
        return before
    after = quantizers.get(("post_hooks", source.node_name, 0))
    if after is not None:
        return after
    if source.node_type in TRANSPARENT:
        return _operand_quantizer(source, 0, quantizers, graph)
    if source.node_type in CONCATENATIONS:
        parts = {_operand_quantizer(source, part, quantizers, graph) for part in graph.sources(source)}
        return parts.pop() if len(parts) == 1 else None
    return None
