"""Networks of a few channels, and quantizers put into them by hand: no kernel of NNCF is needed to look at them."""

from __future__ import annotations

from typing import TypeVar

import torch
from nncf.common.quantization.structs import QuantizationScheme
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.quantization.layers import AsymmetricQuantizer, PTQuantizerSpec, SymmetricQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph

Network = TypeVar("Network", bound=nn.Module)
EXAMPLE = torch.zeros(1, 3, 8, 8)


class Branches(nn.Module):
    """Two convolutions whose outputs are concatenated, pooled and read by a third; a mean, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 2, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(6, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(pixels)), F.relu(self.right(pixels))], dim=1)
        high = F.relu(self.last(F.max_pool2d(both, 2)))
        logits: Tensor = self.fc(high.mean((2, 3)))
        return logits


def filled(network: Network) -> Network:
    """Random weights, and BatchNorm layers whose statistics and affine values are all different from 0 and 1."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=random)
                tensor.copy_(noise.abs() + 0.2 if name.endswith("running_var") else noise)
    return network.eval()


def traced(network: nn.Module) -> tuple[Body, OperatorGraph]:
    """The network, ready for quantizers, and its graph."""
    body = Body(network.eval())
    return body, OperatorGraph.trace(body, EXAMPLE)


def symmetric(
    scale: Tensor | float = 1.0, *, bits: int = 8, signed: bool = True, narrow: bool = False, half: bool = False
) -> SymmetricQuantizer:
    """A symmetric quantizer; ``scale`` is the value of its highest code."""
    values = torch.as_tensor(scale, dtype=torch.float32)
    values = values.reshape(1) if values.ndim == 0 else values
    spec = _spec(QuantizationScheme.SYMMETRIC, values, bits, narrow=narrow, half=half)
    quantizer = SymmetricQuantizer(spec)
    quantizer.signed = signed
    quantizer.scale.data.copy_(values)
    return quantizer


def asymmetric(low: float, high: float, *, bits: int = 8) -> AsymmetricQuantizer:
    """An asymmetric quantizer between two values."""
    spec = _spec(QuantizationScheme.ASYMMETRIC, torch.zeros(1), bits, narrow=False, half=False)
    quantizer = AsymmetricQuantizer(spec)
    quantizer.input_low.data.fill_(low)
    quantizer.input_range.data.fill_(high - low)
    return quantizer


def put(body: Body, place: str, operator: str, port: int, quantizer: nn.Module) -> nn.Module:
    """Put a quantizer in front of (``"pre"``) or behind (``"post"``) an operator, named as NNCF names it."""
    storage = get_hook_storage(body)
    register = storage.register_pre_function_hook if place == "pre" else storage.register_post_function_hook
    register(operator, port, quantizer)
    return quantizer


def _spec(mode: QuantizationScheme, values: Tensor, bits: int, *, narrow: bool, half: bool) -> PTQuantizerSpec:
    return PTQuantizerSpec(
        num_bits=bits,
        mode=mode,
        signedness_to_force=None,
        narrow_range=narrow,
        half_range=half,
        scale_shape=tuple(values.shape),
        logarithm_scale=False,
    )
