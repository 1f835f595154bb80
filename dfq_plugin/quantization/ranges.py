"""Range search: the clipping range that loses least, for weights per channel and for activations per tensor.

Minimises the mean of |x - Q(x)|^p over clip ratios of the largest magnitude. With few bits the largest value is too
rare to spend codes on: min-max ranges are what makes 3 and 4 bits collapse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

ERROR_POWER = 2.4  # the norm used by the reconstruction methods for both operands (GENIE-M, L2.4 search)
CLIP_RATIOS = torch.linspace(0.05, 1.0, 96)
COARSE = slice(3, None, 4)  # every fourth of them, the last included
BINS = 4096
# A channel this much smaller than the largest of its tensor adds nothing that float32 could hold: it is dead. Its grid
# is that of a channel a hundred times smaller than the largest, as in NNCF's min-max ranges: fine enough for its bias.
DEAD_CHANNEL, DEAD_CHANNEL_SCALE = 1e-7, 1e-2


class TensorHistogram:
    """Counts of one tensor's values over all batches, in bins that widen by doubling as larger values arrive."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0  # bins span [-limit, limit]

    def update(self, values: Tensor) -> None:
        """Add every element of ``values``, any shape, all finite."""
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

    def occupied(self) -> tuple[Tensor, Tensor]:
        """Centres and counts of the bins that hold anything; none for a tensor that is zero everywhere."""
        held = self.counts > 0
        return self.centres[held], self.counts[held]


def search_tensor_scale(histogram: TensorHistogram, level_low: int, level_high: int) -> float:
    """The largest magnitude to represent for one tensor.

    Args:
        histogram: what the tensor holds.
        level_low: smallest code of a symmetric quantizer, 0 when unsigned.
        level_high: largest code.

    Returns:
        The value of code ``level_high``; 1.0 for a tensor that is zero everywhere.
    """
    values, counts = histogram.occupied()
    if not len(values):
        return 1.0
    # A signed grid reaches one step further down than up, so its own largest need is looked at on both sides.
    top = max(values.max().item(), -values.min().item() * level_high / max(-level_low, 1) if level_low else 0.0)
    if top <= 0.0:
        return 1.0
    scales = CLIP_RATIOS.double() * top
    errors = _quantization_error(values.unsqueeze(0), scales.unsqueeze(1), level_low, level_high)
    return float(scales[(errors * counts).sum(dim=1).argmin()])


def search_tensor_range(histogram: TensorHistogram, levels: int) -> tuple[float, float]:
    """The values of the lowest and the highest code for one tensor that has a zero point; zero keeps a code of its own.

    Both ends are clipped together, in coarse steps, then each by itself in fine ones.

    Args:
        histogram: what the tensor holds.
        levels: number of codes.

    Returns:
        Low, at most 0, and high; 0 and 1 for a tensor that is zero everywhere.
    """
    values, counts = histogram.occupied()
    if not len(values):
        return 0.0, 1.0
    lows, highs = (CLIP_RATIOS.double() * end for end in (values.min().clamp(max=0.0), values.max().clamp(min=0.0)))
    pairs = torch.cartesian_prod(lows[COARSE], highs[COARSE])
    errors = [_range_errors(values, counts, part[:, 0], part[:, 1], levels) for part in pairs.split(len(CLIP_RATIOS))]
    low, high = pairs[torch.cat(errors).argmin()]
    high = highs[_range_errors(values, counts, low.expand_as(highs), highs, levels).argmin()]
    low = lows[_range_errors(values, counts, lows, high.expand_as(lows), levels).argmin()]
    step, zero = _zero_grid(low, high, levels)
    return float(-zero * step), float((levels - 1 - zero) * step)


def _range_errors(values: Tensor, counts: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """The error of each candidate range, (candidates,)."""
    step, zero = (part.unsqueeze(1) for part in _zero_grid(low, high, levels))
    rounded = ((values / step).round() + zero).clamp(0, levels - 1) - zero
    return ((values - rounded * step).abs().pow(ERROR_POWER) * counts).sum(dim=1)


def _zero_grid(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Step and zero point of the grid from low to high, moved so that zero is one of its values."""
    step = (high - low) / (levels - 1)
    return step, (-low / step).round()


def set_limits(quantizer: Any, low: float, high: float) -> None:  # noqa: ANN401 - an NNCF quantizer
    """Let a per-tensor quantizer represent everything from low to high; zero keeps a code of its own."""
    if hasattr(quantizer, "input_low"):  # asymmetric
        step, zero = _zero_grid(torch.tensor(low), torch.tensor(high), quantizer.levels)
        quantizer.input_low.data.fill_(float(-zero * step))
        quantizer.input_range.data.fill_(float((quantizer.levels - 1) * step))
    else:
        quantizer.signed = low < 0
        quantizer.scale.data.fill_(max(high, -low * quantizer.level_high / max(-quantizer.level_low, 1)))


def search_channel_scales(
    weight: Tensor, level_low: int, level_high: int, axis: int = 0, ratios: Tensor = CLIP_RATIOS
) -> Tensor:
    """The largest magnitude to represent for each channel.

    Args:
        weight: any shape, channels on ``axis``.
        level_low: smallest code.
        level_high: largest code.
        axis: the channel axis.
        ratios: what to try, as a fraction of the largest magnitude of the channel.

    Returns:
        (channels,), all positive.
    """
    rows = weight.detach().movedim(axis, 0).flatten(1)
    largest = rows.abs().amax(dim=1)
    alive, most = largest > DEAD_CHANNEL * largest.max(), largest.max().item()
    rows = rows / largest.where(alive, 1.0).unsqueeze(1)  # powers of small differences would underflow
    best_error = torch.full_like(largest, torch.inf)
    best = torch.ones_like(largest)
    for ratio in ratios.to(rows):
        error = _quantization_error(rows, ratio, level_low, level_high).sum(dim=1)
        better = error < best_error
        best_error, best = torch.where(better, error, best_error), torch.where(better, ratio, best)
    return torch.where(alive, best * largest, DEAD_CHANNEL_SCALE * most if most > 0 else 1.0)


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
