"""Make the float network ready for quantizers: BatchNorm folded into the convolution before it.

Integer kernels know no BatchNorm: left in place it would keep every convolution in front of it in float.
Folding changes no output beyond float rounding; the teacher itself is never touched.
"""

from __future__ import annotations

import copy

import torch
from nncf.common.graph import NNCFNode
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.nncf_graph import CONVOLUTIONS, OperatorGraph


class Body(nn.Module):
    """Holds the network one level down: NNCF cannot hook a network whose top level is ``nn.Sequential``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Run the network on ``images``, (N, C, H, W)."""
        output = self.network(images)
        if not isinstance(output, Tensor):
            msg = f"{type(self.network).__name__} returns {type(output).__name__}; wrap it so that it returns one tensor."
            raise UnsupportedModelError(msg)
        return output


def prepare(teacher: nn.Module, example: Tensor) -> nn.Module:
    """A copy of the teacher in eval mode with every foldable BatchNorm folded.

    Args:
        teacher: the float network; left as it is.
        example: (N, C, H, W), used to trace one forward pass.

    Returns:
        The copy; where its top level is ``nn.Sequential`` it sits one level down, in a ``Body``.
    """
    network = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)
    if isinstance(network, nn.Sequential):
        network = Body(network)
    graph = OperatorGraph.trace(copy.deepcopy(network), example)
    for node in graph.operators("batch_norm"):
        _fold(network, graph, node)
    return network


def _fold(network: nn.Module, graph: OperatorGraph, batchnorm: NNCFNode) -> None:
    """Fold one BatchNorm into the layer it reads, where that layer has no other reader and both run once."""
    source = graph.sources(batchnorm)[0]
    names = graph.parameters(source)
    batchnorm_name = _owner(graph.parameters(batchnorm).values())
    if source.node_type not in CONVOLUTIONS | {"linear"} or 1 not in names or len(graph.readers(source)) != 1:
        return
    layer_name = _owner([names[1]])
    if _runs(graph, layer_name) != 1 or _runs(graph, batchnorm_name) != 1:
        return
    layer, norm = network.get_submodule(layer_name), network.get_submodule(batchnorm_name)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:  # noqa: SLF001 - torch's base class
        return
    layer.weight, layer.bias = _fused(layer, norm, source.node_type)
    network.set_submodule(batchnorm_name, nn.Identity())


def _fused(layer: nn.Module, norm: nn.Module, kind: str) -> tuple[nn.Parameter, nn.Parameter]:
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    with torch.no_grad():
        if kind == "linear":
            weight, bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
        else:
            weight, bias = fuse_conv_bn_weights(
                layer.weight, layer.bias, *statistics, transpose=kind.startswith("conv_transpose")
            )
    return nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)


def _owner(parameter_names: object) -> str:
    return next(iter(parameter_names)).rpartition(".")[0]


def _runs(graph: OperatorGraph, layer_name: str) -> int:
    """How many operators read a parameter of that layer: a shared layer must keep its own weight."""
    return sum(
        any(name.rpartition(".")[0] == layer_name for name in graph.parameters(node).values())
        for node in graph.operators()
    )
