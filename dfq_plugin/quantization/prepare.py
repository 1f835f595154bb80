"""Make the float network ready for quantizers: no BatchNorm left, compound operators shown as their parts.

Integer kernels know no BatchNorm: left in place it would keep every convolution in front of it in float. It is folded
into the layer it reads; where that is not possible, as in DenseNet, it becomes a 1x1 depthwise convolution, whose one
weight a channel is exact at every bit width. Neither changes an output beyond float rounding; the teacher itself is
never touched.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from nncf.common.graph import NNCFNode
from torch import Tensor, nn

from dfq_plugin.folding import affine_of, fused
from dfq_plugin.quantization.decompose import COMPOUND
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph

_BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch's base class of all BatchNorm layers
RESHAPES = frozenset({"flatten", "reshape", "view"})
_Convolution = nn.modules.conv._ConvNd  # noqa: SLF001 - torch's base class of all convolutions


def prepare(teacher: nn.Module, example: Tensor) -> Body:
    """A copy of the teacher in eval mode without BatchNorm.

    Args:
        teacher: the float network; left as it is.
        example: (N, C, H, W), used to trace one forward pass.

    Returns:
        The copy, one level down in a ``Body``.

    Raises:
        UnsupportedModelError: the network gives something else than one tensor.
    """
    body = Body(copy.deepcopy(teacher)).eval().requires_grad_(requires_grad=False)
    graph = OperatorGraph.trace(copy.deepcopy(body), example)
    owners = [{_owner(name) for name in graph.parameters(node).values()} for node in graph.operators()]
    runs = Counter(owner for names in owners for owner in names)
    for batchnorm in graph.operators("batch_norm"):
        if not _fold(body, graph, batchnorm, runs):
            _make_depthwise(body, graph, batchnorm)
    body.decomposed = bool(graph.operators(*COMPOUND))
    return body


def _fold(body: Body, graph: OperatorGraph, batchnorm: NNCFNode, runs: Counter[str]) -> bool:
    """Fold one BatchNorm into the layer it reads, where that layer has no other reader and both run once."""
    source = _through_reshapes(graph, batchnorm)
    weight, statistics = graph.parameters(source).get(1), graph.parameters(batchnorm)
    if weight is None or not statistics or len(graph.readers(source)) != 1:
        return False
    layer_name, norm_name = _owner(weight), _owner(next(iter(statistics.values())))
    if runs[layer_name] != 1 or runs[norm_name] != 1:  # one that runs twice must keep its own weight
        return False
    layer, norm = body.get_submodule(layer_name), body.get_submodule(norm_name)
    if not isinstance(norm, _BatchNorm) or weight != f"{layer_name}.weight":
        return False
    affine, rest = affine_of(norm), _rest(norm, graph.output_shape(batchnorm))
    if affine is None or rest is None:
        return False
    if isinstance(layer, _Convolution) or (isinstance(layer, nn.Linear) and _is_matrix(graph, batchnorm)):
        transposed = source.node_type.startswith("conv_transpose")
        layer.weight, layer.bias = fused(layer, *affine, transposed=transposed)
        body.set_submodule(norm_name, rest)
        body.folded[scope_of(norm_name)] = scope_of(layer_name)
        return True
    return False


def _through_reshapes(graph: OperatorGraph, batchnorm: NNCFNode) -> NNCFNode:
    """What a BatchNorm reads; of tokens that a linear layer made and a reshape put into rows, the linear layer."""
    source = graph.sources(batchnorm)[0]
    before = graph.sources(source).get(0)
    if source.node_type in RESHAPES and before is not None and before.node_type == "linear":
        keeps_channels = graph.output_shape(source)[-1] == graph.output_shape(before)[-1]
        if keeps_channels and _is_matrix(graph, source) and len(graph.readers(source)) == 1:
            return before
    return source


def _rest(norm: _BatchNorm, shape: Sequence[int]) -> nn.Module | None:
    """What a BatchNorm layer does besides normalising: nothing, or what a class derived from it calls afterwards.

    Returns:
        The module to put in its place; None when it is not simply its children, one after the other.
    """
    rest = nn.Sequential(*norm.children()) if list(norm.children()) else nn.Identity()
    if type(norm).forward is _BatchNorm.forward:
        return rest
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(next(norm.buffers()))
    with torch.no_grad():
        return rest if torch.allclose(norm(probe), rest(_BatchNorm.forward(norm, probe))) else None


def _make_depthwise(network: nn.Module, graph: OperatorGraph, batchnorm: NNCFNode) -> None:
    """Put a 1x1 depthwise convolution in the place of a BatchNorm of (N, C, H, W) that could not be folded."""
    statistics = graph.parameters(batchnorm)
    name = _owner(next(iter(statistics.values()), ""))
    norm = network.get_submodule(name) if name else None
    if not isinstance(norm, nn.BatchNorm2d):
        return
    affine, rest = affine_of(norm), _rest(norm, graph.output_shape(batchnorm))
    if affine is None or rest is None:
        return
    factor, shift = affine
    layer: nn.Module = nn.Conv2d(len(factor), len(factor), 1, groups=len(factor)).to(
        factor.device, next(norm.buffers()).dtype
    )
    layer.load_state_dict({"weight": factor.reshape(-1, 1, 1, 1), "bias": shift})
    layer = layer if isinstance(rest, nn.Identity) else nn.Sequential(layer, rest)
    network.set_submodule(name, layer.eval().requires_grad_(requires_grad=False))


def _is_matrix(graph: OperatorGraph, node: NNCFNode) -> bool:
    """Whether an operator gives (N, channels): of (N, L, channels) BatchNorm would normalise the L."""
    return len(graph.output_shape(node)) == 2


def scope_of(module: str) -> str:
    """The scope of a module of a ``Body``, as it would be without the body around it."""
    return module.removeprefix("network.").replace(".", "/")


def _owner(parameter_name: str) -> str:
    return parameter_name.rpartition(".")[0]
