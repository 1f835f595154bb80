"""The arithmetic of folding a BatchNorm layer into the layer that it reads; others say where that is right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch's base class of all BatchNorm layers
_Convolution = nn.modules.conv._ConvNd  # noqa: SLF001 - torch's base class of all convolutions


def affine_of(norm: _BatchNorm) -> tuple[Tensor, Tensor] | None:
    """What a BatchNorm in eval mode multiplies by and adds, both (channels,) float64; None without statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    with torch.no_grad():
        factor = (variance.double() + norm.eps).rsqrt()
        shift = -mean.double() * factor
        if norm.affine:
            factor, shift = factor * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
        return factor, shift


def fused(
    layer: _Convolution | nn.Linear, factor: Tensor, shift: Tensor, *, transposed: bool
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias that do what the layer and ``factor * x + shift``, both (channels,), after it did."""
    with torch.no_grad():
        weight = layer.weight.double()
        if transposed:  # (in, out / groups, ...), where the channels of a group share no weight with another's
            groups = len(factor) // weight.shape[1]
            scale = factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
            weight = (weight.reshape(groups, -1, *weight.shape[1:]) * scale).reshape(weight.shape)
        else:
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = shift if layer.bias is None else shift + layer.bias.double() * factor
        dtype = layer.weight.dtype
    return nn.Parameter(weight.to(dtype), requires_grad=False), nn.Parameter(bias.to(dtype), requires_grad=False)
