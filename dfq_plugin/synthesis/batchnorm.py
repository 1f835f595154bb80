"""What the BatchNorm layers of a teacher see, beside what they saw in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.synthesis.folding import FoldedBatchNorm
from dfq_plugin.teacher import ModelFacts

_Layer = nn.modules.batchnorm._BatchNorm | FoldedBatchNorm  # noqa: SLF001 - the one base of all BatchNorm classes


@dataclass(frozen=True)
class BatchNormStatistics:
    """One call of one BatchNorm layer: the moments of its input, and those stored in training.

    Attributes:
        name: Dotted name of the layer; a layer that runs twice in a forward pass gives two entries.
        mean: Of the input, (C,) over batch and space, or (N, C) over the space of each image.
        variance: Biased (divided by ``count``), shaped as ``mean``.
        stored_mean: (C,), the layer's running mean.
        stored_variance: (C,), the layer's running variance.
        eps: What the layer adds to its variance.
        count: How many values each moment was taken over.
    """

    name: str
    mean: Tensor
    variance: Tensor
    stored_mean: Tensor
    stored_variance: Tensor
    eps: float
    count: int


@contextmanager
def tap_batchnorm(
    teacher: nn.Module, facts: ModelFacts, *, per_image: bool = False
) -> Iterator[list[BatchNormStatistics]]:
    """Watch the inputs of the teacher's BatchNorm layers; the hooks are gone when the block ends.

    The layers are found by name, and the moments carry gradients back to the teacher's input.

    Args:
        teacher: The network, in eval mode; of a ``folded_copy`` the entries are the same.
        facts: Its facts; ``batchnorm_layers`` names the layers.
        per_image: Take the moments over the space of each image instead of over batch and space.

    Yields:
        A list that every forward pass of the teacher empties and fills again, in the order in which the layers run.

    Raises:
        InputError: The facts name a layer that the teacher does not have.
        UnsupportedModelError: A layer keeps no running statistics.
    """
    entries: list[BatchNormStatistics] = []

    def begin(_module: nn.Module, _inputs: Any) -> None:  # noqa: ANN401 - whatever a network takes
        entries.clear()

    with ExitStack() as hooks:
        # Before the layers' own hooks, so that it empties the list first even if the teacher is a single layer.
        hooks.callback(teacher.register_forward_pre_hook(begin).remove)
        for name in dict.fromkeys(facts.batchnorm_layers):
            tap = _Tap(name, _find_layer(teacher, name), entries, per_image=per_image)
            hooks.callback(tap.layer.register_forward_pre_hook(tap).remove)
        yield entries


def input_moments(inputs: Tensor, *, per_image: bool = False) -> tuple[Tensor, Tensor]:
    """Take mean and biased variance of every channel.

    Args:
        inputs: (N, C) or (N, C, ...).
        per_image: Give (N, C), over the space of each image, instead of (C,), over batch and space.
    """
    mean, variance = _Moments.apply(inputs, per_image)
    return mean, variance


class _Tap:
    """The hook of one layer."""

    def __init__(self, name: str, layer: _Layer, entries: list[BatchNormStatistics], *, per_image: bool) -> None:
        if layer.running_mean is None or layer.running_var is None:
            msg = (
                f"BatchNorm layer '{name}' keeps no running statistics (track_running_stats=False) to compare with; "
                "the providers 'noise' and 'folder' work without."
            )
            raise UnsupportedModelError(msg)
        self.layer = layer
        self._name, self._entries, self._per_image = name, entries, per_image
        self._stored_mean, self._stored_variance = layer.running_mean.detach(), layer.running_var.detach()

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = input_moments(inputs[0], per_image=self._per_image)
        if isinstance(self.layer, FoldedBatchNorm):
            mean, variance = self.layer.moments_before(mean, variance)
        count = inputs[0].numel() // mean.numel()
        stored = self._stored_mean, self._stored_variance
        self._entries.append(BatchNormStatistics(self._name, mean, variance, *stored, self.layer.eps, count))


class _Moments(torch.autograd.Function):
    """Mean and biased variance in one pass, with a backward pass of one multiply-add per value.

    On CPU this halves the cost of a step compared with ``torch.var_mean`` and its own backward pass.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:  # noqa: ANN401, FBT001 - autograd's own interface
        if inputs.device.type != "cpu" or inputs.dtype not in (torch.float32, torch.float64, torch.bfloat16):
            wide = _by_channel(inputs).to(torch.promote_types(inputs.dtype, torch.float32))
            variance, mean = torch.var_mean(wide, dim=(2,) if per_image else (0, 2), correction=0)
        elif per_image:
            moments = [_fused_moments(image) for image in inputs.split(1)]
            mean, variance = torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments])
        else:
            mean, variance = _fused_moments(inputs)
        ctx.save_for_backward(inputs, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        inputs, mean = ctx.saved_tensors
        count = inputs.numel() // mean.numel()
        slope = grad_variance * (2 / count)
        offset = grad_mean / count - slope * mean
        shape = (*(mean.shape if mean.ndim == 2 else (1, *mean.shape)), *(1,) * (inputs.ndim - 2))
        return torch.addcmul(offset.view(shape).to(inputs), inputs, slope.view(shape).to(inputs)), None


def _fused_moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by the pass that BatchNorm itself takes on a CPU; of bfloat16 in float32."""
    if inputs.dtype != torch.bfloat16:
        return torch.batch_norm_update_stats(inputs, None, None, 0.0)
    wide = torch.zeros(inputs.shape[1])  # the kernel gives its results in the type of what it would update
    return torch.batch_norm_update_stats(inputs, wide, wide.clone(), 0.0)


def _by_channel(inputs: Tensor) -> Tensor:
    return inputs.flatten(2) if inputs.ndim > 2 else inputs.unsqueeze(2)


def _find_layer(teacher: nn.Module, name: str) -> _Layer:
    try:
        layer = teacher.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, _Layer):
        msg = f"{type(teacher).__name__} has no BatchNorm layer '{name}'; read the facts from this very network."
        raise InputError(msg)
    return layer
