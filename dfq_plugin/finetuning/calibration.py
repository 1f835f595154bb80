"""Ranges that follow what is quantized, as in the papers' fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dfq_plugin.extremes import MovingExtremes, cover_channels
from dfq_plugin.student import Student


@contextmanager
def following_ranges(student: Student) -> Iterator[None]:
    """Let every activation quantizer move its range with what it sees, before it quantizes, while the block runs.

    Ranges are moving averages of minimum and maximum; the quantizer of the network's input keeps the one it has, which
    is that of real pixels.
    """
    with ExitStack() as stack:
        for site, quantizer in student.quantizers():
            if site.kind == "activation" and not site.is_input and quantizer.is_enabled_quantization():
                stack.callback(quantizer.register_forward_pre_hook(_follow(MovingExtremes())).remove)
        yield


@contextmanager
def following_weights(student: Student) -> Iterator[None]:
    """Take the range of every weight anew whenever it is quantized, while the block runs, and once more in the end."""
    weights = {layer.weight_quantizer: layer.weight for layer in student.layers if layer.weight_quantizer}
    with ExitStack() as stack:
        for name, weight in weights.items():
            quantizer, values = student.quantizer(name), student.network.get_parameter(weight)
            stack.callback(cover_channels, quantizer, values)
            handle = quantizer.register_forward_pre_hook(lambda own, inputs: cover_channels(own, inputs[0]))
            stack.callback(handle.remove)
        yield


def _follow(seen: MovingExtremes) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def follow(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.update(inputs[0])
        set_range(quantizer, seen.low, seen.high)

    return follow


@torch.no_grad()
def set_range(quantizer: Any, low: float, high: float) -> None:  # noqa: ANN401 - an NNCF quantizer: NNCF ships no types
    """Let a quantizer represent everything from ``low`` to ``high``, as far as its signs allow."""
    ranges = quantizer.get_trainable_params()
    if "input_low" in ranges:  # asymmetric; NNCF itself moves the edges so that zero has a code
        ranges["input_low"].fill_(min(low, 0.0))
        ranges["input_range"].fill_(max(high, 0.0) - min(low, 0.0))
    else:
        reach = -low * quantizer.level_high / -quantizer.level_low if quantizer.level_low else 0.0
        ranges["scale"].fill_(max(high, reach))
