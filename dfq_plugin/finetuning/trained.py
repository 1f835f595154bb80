"""Which tensors of a student are trained, and how fast.

Relative rates are the setting times the root mean square of the tensor's values (as in Adafactor, arXiv:1804.04235,
section 8). Folded BatchNorm spreads the magnitudes of weights over decades and a clipping range may be a thousand times
a weight: no absolute rate suits them all, and one that suits a range wrecks a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dfq_plugin.errors import InputError
from dfq_plugin.student import Student


class Trained:
    """The weights and biases of a student's layers and the ranges of its quantizers.

    Args:
        student: the quantized network.
        batchnorm: train scale and shift of the BatchNorm layers in it as well.
        weight_ranges: train the ranges of weights, and not only those of activations.
    """

    def __init__(self, student: Student, *, batchnorm: bool, weight_ranges: bool = True) -> None:
        names = [name for layer in student.layers for name in (layer.weight, layer.bias) if name is not None]
        weights = [student.network.get_parameter(name) for name in dict.fromkeys(names)]
        norms = (m for m in student.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))  # noqa: SLF001
        affine = [parameter for norm in norms for parameter in norm.parameters(recurse=False)] if batchnorm else []
        self._weights = [*weights, *affine]
        self._ranges = [
            parameter
            for site, quantizer in student.quantizers()
            if quantizer.is_enabled_quantization() and (weight_ranges or site.kind == "activation")
            for parameter in quantizer.get_trainable_params().values()
        ]
        self._network = student.network

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every tensor that is trained, with its name in the network."""
        trained = {id(parameter) for parameter in (*self._weights, *self._ranges)}
        return ((name, value) for name, value in self._network.named_parameters() if id(value) in trained)

    @contextmanager
    def with_gradients(self) -> Iterator[None]:
        """Let gradients reach all of them; nothing in the network can be trained afterwards."""
        for parameter in (*self._weights, *self._ranges):
            parameter.requires_grad_(requires_grad=True)
        try:
            yield
        finally:
            for parameter in (*self._weights, *self._ranges):
                parameter.requires_grad_(requires_grad=False)
                parameter.grad = None

    def groups(self, rate: float, range_multiplier: float, *, relative: bool) -> list[dict[str, object]]:
        """One group of an optimiser for each tensor.

        Args:
            rate: of weights and biases.
            range_multiplier: of the ranges, as a multiple of ``rate``.
            relative: take rates as fractions of the root mean square of the tensor.
        """
        rates = [*((p, rate) for p in self._weights), *((p, rate * range_multiplier) for p in self._ranges)]
        return [{"params": [p], "lr": wanted * _size(p) if relative else wanted} for p, wanted in rates]

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values that another student of the same kind has learned.

        Raises:
            InputError: it is of another kind; nothing has been changed.
        """
        own = dict(self.named())
        if {name: value.shape for name, value in own.items()} != {name: t.shape for name, t in tensors.items()}:
            msg = "The state to go on from is that of another student: it has other trained tensors."
            raise InputError(msg)
        for name, value in own.items():
            value.copy_(tensors[name])


def _size(parameter: Tensor) -> float:
    return parameter.detach().square().mean().sqrt().item()
