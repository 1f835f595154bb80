"""Range search: the clipping range that loses least, for weights per channel and for activations per tensor.

Minimises the mean of |x - Q(x)|^p over clip ratios of the largest magnitude. Below 8 bits the largest value is too
rare to spend codes on: min-max ranges are what makes 3 and 4 bits collapse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ERROR_POWER = 2.4  # the norm used by the reconstruction methods for both operands (GENIE-M, L2.4 search)
CLIP_RATIOS = torch.linspace(0.05, 1.0, 96)
BINS = 4096


class TensorHistogram:
    """Counts of one tensor's values over all batches, in bins that widen by doubling as larger values arrive."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0  # bins span [-limit, limit]

    def update(self, values: Tensor) -> None:
        """Add every element of ``values``, any shape; values that are not finite are refused by the caller."""
        largest = values.abs().max().item()
        if largest == 0.0 and self.limit == 0.0:
            return
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit:
            folded = self.counts.reshape(BINS // 2, 2).sum(dim=1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : 3 * BINS // 4] = folded
            self.limit *= 2.0
        self.counts += torch.histc(values.float(), BINS, -self.limit, self.limit).double().cpu()

    @property
    def centres(self) -> Tensor:
        """Middle of each bin, (BINS,)."""
        edges = torch.linspace(-self.limit, self.limit, BINS + 1, dtype=torch.float64)
        return (edges[1:] + edges[:-1]) / 2


def search_tensor_scale(histogram: TensorHistogram, level_low: int, level_high: int) -> float:
    """The largest magnitude to represent for one tensor.

    Args:
        histogram: what the tensor holds.
        level_low: smallest code of a symmetric quantizer, 0 when unsigned.
        level_high: largest code.

    Returns:
        The value of code ``level_high``; 1.0 for a tensor that is zero everywhere.
    """
    occupied = histogram.counts > 0
    if not bool(occupied.any()):
        return 1.0
    values, counts = histogram.centres[occupied], histogram.counts[occupied]
    # A signed grid reaches one step further down than up, so its own largest need is looked at on both sides.
    top = max(values.max().item(), -values.min().item() * level_high / max(-level_low, 1) if level_low else 0.0)
    if top <= 0.0:
        return 1.0
    scales = CLIP_RATIOS.double() * top
    errors = _quantization_error(values.unsqueeze(0), scales.unsqueeze(1), level_low, level_high)
    return float(scales[(errors * counts).sum(dim=1).argmin()])


def search_channel_scales(weight: Tensor, level_low: int, level_high: int, axis: int = 0) -> Tensor:
    """The largest magnitude to represent for each channel.

    Args:
        weight: any shape, channels on ``axis``.
        level_low: smallest code.
        level_high: largest code.
        axis: the channel axis.

    Returns:
        (channels,), 1.0 where a channel is zero everywhere.
    """
    rows = weight.detach().movedim(axis, 0).flatten(1)
    largest = rows.abs().amax(dim=1)
    best_error = torch.full_like(largest, torch.inf)
    best = largest.clone()
    for ratio in CLIP_RATIOS:
        scale = largest * ratio
        error = _quantization_error(rows, scale.clamp(min=1e-30).unsqueeze(1), level_low, level_high).sum(dim=1)
        better = error < best_error
        best_error, best = torch.where(better, error, best_error), torch.where(better, scale, best)
    return torch.where(largest > 0, best, torch.ones_like(best))


def _quantization_error(values: Tensor, scale: Tensor, level_low: int, level_high: int) -> Tensor:
    step = scale / level_high
    rounded = (values / step).round().clamp(level_low, level_high) * step
    return (values - rounded).abs().pow(ERROR_POWER)


@contextmanager
def watch(quantizers: dict[str, torch.nn.Module]) -> Iterator[dict[str, TensorHistogram]]:
    """Count what reaches each quantizer while the block runs.

    Args:
        quantizers: modules by name; each is called with the tensor it would quantize.
    """
    histograms = {name: TensorHistogram() for name in quantizers}

    def hook_for(histogram: TensorHistogram) -> object:
        def count(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            histogram.update(inputs[0].detach())

        return count

    handles = [
        module.register_forward_pre_hook(hook_for(histograms[name]))  # type: ignore[arg-type]
        for name, module in quantizers.items()
    ]
    try:
        yield histograms
    finally:
        for handle in handles:
            handle.remove()
