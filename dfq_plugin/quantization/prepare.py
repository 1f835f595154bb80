"""Make the float network ready for quantizers: BatchNorm folded into the convolution before it.

Integer kernels know no BatchNorm: left in place it would keep every convolution in front of it in float.
Folding changes no output beyond float rounding; the teacher itself is never touched.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from nncf.common.graph import NNCFNode
from torch import Tensor, nn

from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph

_BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch's base class of all BatchNorm layers
_Convolution = nn.modules.conv._ConvNd  # noqa: SLF001 - torch's base class of all convolutions


def prepare(teacher: nn.Module, example: Tensor) -> Body:
    """A copy of the teacher in eval mode with every foldable BatchNorm folded.

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
        _fold(body, graph, batchnorm, runs)
    return body


def _fold(network: nn.Module, graph: OperatorGraph, batchnorm: NNCFNode, runs: Counter[str]) -> None:
    """Fold one BatchNorm into the layer it reads, where that layer has no other reader and both run once."""
    source = graph.sources(batchnorm)[0]
    weight, statistics = graph.parameters(source).get(1), graph.parameters(batchnorm)
    if weight is None or not statistics or len(graph.readers(source)) != 1:
        return
    layer_name, norm_name = _owner(weight), _owner(next(iter(statistics.values())))
    if runs[layer_name] != 1 or runs[norm_name] != 1:  # one that runs twice must keep its own weight
        return
    layer, norm = network.get_submodule(layer_name), network.get_submodule(norm_name)
    if not isinstance(norm, _BatchNorm) or weight != f"{layer_name}.weight":
        return
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    if isinstance(layer, _Convolution) or (isinstance(layer, nn.Linear) and _is_matrix(graph, source)):
        transposed = source.node_type.startswith("conv_transpose")
        layer.weight, layer.bias = _fused(layer, norm, mean, variance, transposed=transposed)
        network.set_submodule(norm_name, nn.Identity())


def _is_matrix(graph: OperatorGraph, linear: NNCFNode) -> bool:
    """Whether a linear layer gives (N, channels): of (N, L, channels) BatchNorm would normalise the L."""
    return len(graph.output_shape(linear)) == 2


def _fused(
    layer: _Convolution | nn.Linear, norm: _BatchNorm, mean: Tensor, variance: Tensor, *, transposed: bool
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias that do what the layer and the BatchNorm after it did."""
    with torch.no_grad():
        scale = (variance.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        weight = layer.weight.double()
        if transposed:  # (in, out / groups, ...), where the channels of a group share no weight with another's
            groups = len(scale) // weight.shape[1]
            factor = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
            weight = (weight.reshape(groups, -1, *weight.shape[1:]) * factor).reshape(weight.shape)
        else:
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = ((0.0 if layer.bias is None else layer.bias.double()) - mean.double()) * scale
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        dtype = layer.weight.dtype
    return nn.Parameter(weight.to(dtype), requires_grad=False), nn.Parameter(bias.to(dtype), requires_grad=False)


def _owner(parameter_name: str) -> str:
    return parameter_name.rpartition(".")[0]
