"""BatchNorm folded into the convolutions that it reads, for steps of synthesis that cost less than the network itself.

What a BatchNorm layer would see can be told from what the convolution gives once it is scaled and shifted already: the
moments of x follow from those of a * x + b. So the layer need not run at all, forwards or backwards. A layer is left
alone where that is not possible or not exact: the convolution's output has other readers, either of the two runs more
than once, or a channel is scaled to almost nothing.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfq_plugin.folding import affine_of, fused
from dfq_plugin.network_state import HOOK_TABLES, untouched_random_state
from dfq_plugin.teacher import ModelFacts

_BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch's base class of all BatchNorm layers
_Convolution = nn.modules.conv._ConvNd  # noqa: SLF001 - torch's base class of all convolutions
SMALLEST_SCALE = 1e-3  # of a channel, beside its shift; below, its moments would drown in rounding
CLOSE = 1e-3  # of a folded layer's output to that of the two layers, beside its standard deviation


class FoldedBatchNorm(nn.Module):
    """Stands where a BatchNorm layer stood and passes on what it is given, which is that layer's output already.

    Some libraries put an activation into their BatchNorm layers; those layers' own children still run, in order.

    Args:
        layer: The BatchNorm layer, with running statistics.
        scale: What it multiplies its input with, (C,).
        shift: What it adds then, (C,).

    Attributes:
        running_mean: (C,), as in the layer; likewise ``running_var`` and ``eps``.
        apart: Whether to pass on a copy, for networks that change the output in place.
    """

    running_mean: Tensor
    running_var: Tensor
    _scale: Tensor
    _shift: Tensor

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        tensors = {"running_mean": layer.running_mean, "running_var": layer.running_var}
        for name, tensor in {**tensors, "_scale": scale, "_shift": shift}.items():
            self.register_buffer(name, tensor)
        self.eps = layer.eps
        self.rest = nn.Sequential(*layer.children())
        self.apart = False

    def moments_before(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Give the moments of the layer's input, from those of its output; (C,) or (N, C)."""
        return (mean - self._shift) / self._scale, variance / self._scale.square()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.rest(inputs.clone() if self.apart else inputs)
        return found


@torch.no_grad()
def folded_copy(teacher: nn.Module, facts: ModelFacts) -> nn.Module:
    """Copy a network for synthesis: frozen, in eval mode, with BatchNorm folded wherever that changes nothing.

    Args:
        teacher: The network; left as it is.
        facts: Its facts; the layers keep their names.

    Returns:
        A network of the same outputs, up to float rounding, that ``tap_batchnorm`` can watch like the teacher itself.
    """
    network = _copied(teacher)
    images = torch.randn((2, *facts.input_shape), generator=torch.Generator().manual_seed(0))
    images = images.to(next(network.parameters()))
    for layer in network.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False  # type: ignore[assignment] # an activation's
    with untouched_random_state(network):
        pairs = _pairs(network, facts.batchnorm_layers, images)
        folded = [found for pair in pairs if (found := _fold(network, pair)) is not None]
        if folded and not _settle(network, folded, images):
            return _copied(teacher)
    return network


def computing_in_bfloat16(network: nn.Module) -> nn.Module:
    """Let a network compute in bfloat16 wherever that is usual, in place; a tensor it gives is in float32.

    The weights stay in float32; what they are multiplied with is rounded to eight bits of mantissa.
    """
    forward = network.forward
    device = next(network.parameters()).device.type

    def compute(*inputs: Any, **keywords: Any) -> Any:  # noqa: ANN401 - whatever a network takes and gives
        with torch.autocast(device, torch.bfloat16):
            found = forward(*inputs, **keywords)
        return found.float() if isinstance(found, Tensor) else found

    network.forward = compute
    return network


def _copied(teacher: nn.Module) -> nn.Module:
    return copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class _Call:
    """One run of one layer; the copy of the output is safe from operators that write over it."""

    layer: nn.Module
    input: Tensor
    output: Tensor
    copy: Tensor


@dataclass(frozen=True)
class _Pair:
    """A convolution and the one reader of its output."""

    convolution: _Call
    norm: _Call


class _Readers(TorchDispatchMode):
    """Counts how many operators read each of some tensors, which it keeps alive so that no two share an id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched: dict[int, Tensor] = {}
        self._counts: Counter[int] = Counter()

    def watch(self, tensor: Tensor) -> None:
        """Count from now on."""
        self._watched[id(tensor)] = tensor

    def count(self, tensor: Tensor) -> int:
        """How many operators have read it."""
        return self._counts[id(tensor)]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own interface
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        self._counts.update({id(value) for value in tree_leaves((args, kwargs))} & self._watched.keys())
        return func(*args, **(kwargs or {}))


def _pairs(network: nn.Module, names: Sequence[str], images: Tensor) -> list[_Pair]:
    """Run the network once, and see which BatchNorm layers are alone in reading what a convolution gives."""
    named, calls, readers = dict(network.named_modules()), list[_Call](), _Readers()
    norms = {named[name]: None for name in names if name in named}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs:  # by keyword: unusual, and left alone
            calls.append(_Call(layer, inputs[0], output, output.clone()))
            readers.watch(output)

    with ExitStack() as stack:
        for layer in named.values():
            wanted = layer in norms or isinstance(layer, _Convolution)
            if wanted and not any(getattr(layer, table, None) for table in HOOK_TABLES):
                stack.callback(layer.register_forward_hook(note).remove)
        stack.enter_context(readers)
        network(images)
    runs = Counter(call.layer for call in calls)
    once = [call for call in calls if runs[call.layer] == 1]
    makers = {id(call.output): call for call in once if isinstance(call.layer, _Convolution)}
    return [
        _Pair(makers[id(call.input)], call)
        for call in once
        if call.layer in norms and id(call.input) in makers and readers.count(call.input) == 1
    ]


def _fold(network: nn.Module, pair: _Pair) -> FoldedBatchNorm | None:
    """Fold one pair, in place; leave it alone where that is not exact, or the layers are not what they seem."""
    layer, norm = pair.convolution.layer, pair.norm.layer
    if not isinstance(layer, _Convolution) or not isinstance(norm, _BatchNorm) or layer.transposed:
        return None
    affine = _told_back(norm)
    if affine is None or "weight" not in layer._parameters:  # noqa: SLF001 - the weight may be computed each time
        return None
    weight, bias = layer.weight, layer.bias
    layer.weight, layer.bias = fused(layer, *affine, transposed=False)
    folded = FoldedBatchNorm(norm, *(values.to(weight) for values in affine))
    again, wanted = folded(layer(pair.convolution.input)), pair.norm.copy
    if not torch.allclose(again, wanted, rtol=CLOSE, atol=CLOSE * float(wanted.std())):
        layer.weight, layer.bias = weight, bias
        return None
    for parent in network.modules():
        for name, child in list(parent._modules.items()):  # noqa: SLF001 - a layer may have several names
            if child is norm:
                setattr(parent, name, folded)
    return folded


def _told_back(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor] | None:
    """Scale and shift that a layer in eval mode applies, (C,) float64; None where they cannot be taken back exactly."""
    if norm.affine and bool((norm.weight.abs() <= SMALLEST_SCALE * norm.bias.abs()).any()):
        return None
    return affine_of(norm)


def _settle(network: nn.Module, folded: Sequence[FoldedBatchNorm], images: Tensor) -> bool:
    """Let nothing write over what a folded layer has given; False where a layer does not run in its new place."""
    given: dict[FoldedBatchNorm, tuple[Tensor, int]] = {}
    with ExitStack() as stack:
        for layer in folded:
            hook = lambda layer, inputs: given.update({layer: (inputs[0], inputs[0]._version)})  # noqa: E731, SLF001
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        network(images)
    for layer, (inputs, version) in given.items():
        layer.apart = inputs._version != version  # noqa: SLF001 - torch's count of the writes
    return len(given) == len(folded)
