"""Range search: the clipping range that loses least, for weights per channel and for activations per tensor.

Minimises the mean of |x - Q(x)|^p over clip ratios of the largest magnitude. With few bits the largest value is too
rare to spend codes on: min-max ranges are what makes 3 and 4 bits collapse. For activations p = 2.4, as in GENIE-M. For
weights p = 4: a large weight that is clipped is wrong in the same direction for every image, which costs more than its
square says. On ResNet-20 with SQuant, p = 4 instead of 2.4 halves what 3 bits lose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dfq_plugin.extremes import DEAD_CHANNEL_REACH

ACTIVATION_POWER, WEIGHT_POWER = 2.4, 4
CLIP_RATIOS = torch.linspace(0.05, 1.0, 96)
COARSE = slice(3, None, 4)  # every fourth of them, the last included
REFINEMENTS = ((-3, -2, -1, 1, 2, 3), (-0.5, -0.25, 0.25, 0.5))  # around the best so far, in their spacing
CACHED_VALUES = 2**15  # so many weights and what is computed from them stay in a processor's cache
BINS = 4096
# A channel this much smaller than the largest of its tensor adds nothing that float32 could hold: it is dead. Its grid
# is that of a channel a hundred times smaller than the largest, as in NNCF's min-max ranges: fine enough for its bias.
DEAD_CHANNEL = 1e-7


class TensorHistogram:
    """Counts of one tensor's values over all batches, in bins that widen by doubling as larger values arrive."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0  # bins span [-limit, limit]

    def update(self, values: Tensor, shares: Tensor | None = None) -> None:
        """Add every element of ``values``, any shape, all finite.

        Args:
            values: (N, ...).
            shares: how much an element of each of the N counts, (N,); 1 when left out.
        """
        largest = max(end.abs().item() for end in values.aminmax())
        if not math.isfinite(largest) or not math.isfinite(self.limit):
            self.limit = math.nan  # for good: whoever reads the histogram is to say whose values these are
            return
        if largest == 0.0 and self.limit == 0.0:
            return
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit:
            folded = self.counts.reshape(BINS // 2, 2).sum(dim=1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : 3 * BINS // 4] = folded
            self.limit *= 2.0
        if shares is None:
            self.counts += self._count(values)
        else:
            for part, share in zip(values, shares.tolist(), strict=True):
                self.counts += share * self._count(part)

    def _count(self, values: Tensor) -> Tensor:
        return torch.histc(values.float(), BINS, -self.limit, self.limit).double().cpu()

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
    errors = _distances(values, scales.unsqueeze(1), level_low, level_high).pow(ACTIVATION_POWER)
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
    return ((values - rounded * step).abs().pow(ACTIVATION_POWER) * counts).sum(dim=1)


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


def fit_range(quantizer: Any, histogram: TensorHistogram) -> None:  # noqa: ANN401 - an NNCF quantizer
    """Give a per-tensor quantizer the range that loses least of what its tensor holds."""
    if hasattr(quantizer, "input_low"):  # asymmetric
        low, high = search_tensor_range(histogram, quantizer.levels)
        quantizer.input_low.data.fill_(low)
        quantizer.input_range.data.fill_(high - low)
    else:
        values, _ = histogram.occupied()
        quantizer.signed = bool(len(values)) and bool(values[0] < 0)
        quantizer.scale.data.fill_(search_tensor_scale(histogram, quantizer.level_low, quantizer.level_high))


def set_steps(quantizer: Any, steps: Tensor) -> None:  # noqa: ANN401 - an NNCF quantizer
    """Give the symmetric quantizer of a weight its steps, one for each channel where it has several, in any shape."""
    quantizer.scale.data.copy_((steps * quantizer.level_high).reshape(quantizer.scale.shape))


def fit_scales(quantizer: Any, weight: Tensor, ratios: Tensor = CLIP_RATIOS) -> None:  # noqa: ANN401 - an NNCF quantizer
    """Give the symmetric quantizer of a weight the scales that lose least, one for each channel where it has several.

    Args:
        quantizer: of the weight.
        weight: any shape.
        ratios: as in ``search_channel_scales``.
    """
    axis = next((i for i, size in enumerate(quantizer.scale.shape) if size > 1), None)
    rows = weight.reshape(1, -1) if axis is None else weight
    scales = search_channel_scales(rows, quantizer.level_low, quantizer.level_high, axis or 0, ratios)
    quantizer.scale.data.copy_(scales.reshape(quantizer.scale.shape))


def search_channel_scales(
    weight: Tensor, level_low: int, level_high: int, axis: int = 0, ratios: Tensor = CLIP_RATIOS
) -> Tensor:
    """The largest magnitude to represent for each channel.

    Every fourth ratio is tried, then those around the best, in ever finer steps.

    Args:
        weight: any shape, channels on ``axis``.
        level_low: smallest code.
        level_high: largest code.
        axis: the channel axis.
        ratios: what to try, as a fraction of the largest magnitude of the channel, evenly spaced; a single one is taken
            as it is.

    Returns:
        (channels,), all positive.
    """
    rows = weight.detach().movedim(axis, 0).flatten(1)
    largest = rows.abs().amax(dim=1)
    alive, most = largest > DEAD_CHANNEL * largest.max(), largest.max().item()
    rows = rows / largest.where(alive, 1.0).unsqueeze(1)  # powers of small differences would underflow
    tried = ratios.to(rows)
    if len(tried) > 1:
        parts = rows.split(max(1, CACHED_VALUES // rows.shape[1]))
        best = torch.cat([_search_ratios(part, tried, level_low, level_high) for part in parts])
    else:
        best = tried.expand(len(rows))
    return torch.where(alive, best * largest, DEAD_CHANNEL_REACH * most if most > 0 else 1.0)


def _search_ratios(rows: Tensor, ratios: Tensor, level_low: int, level_high: int) -> Tensor:
    """The best clip ratio for each of (rows, values), whose largest magnitude is 1; (rows,)."""

    def error(ratio: Tensor) -> Tensor:
        distances = _distances(rows, ratio.reshape(-1, 1), level_low, level_high)
        return distances.square_().square_().sum(dim=1)  # by hand: pow is five times slower

    coarse = ratios[COARSE]
    errors, places = torch.stack([error(ratio) for ratio in coarse]).min(dim=0)
    best, spacing = coarse[places], ratios[1] - ratios[0]
    for offsets in REFINEMENTS:
        start = best
        for offset in offsets:
            ratio = (start + offset * spacing).clamp(ratios[0], ratios[-1])
            found = error(ratio)
            best, errors = torch.where(found < errors, ratio, best), torch.minimum(found, errors)
    return best


def _distances(values: Tensor, scale: Tensor, level_low: int, level_high: int) -> Tensor:
    """How far each value is from the nearest code of a grid whose highest code is ``scale``."""
    step = scale / level_high
    exact = values / step
    return exact.round().clamp_(level_low, level_high).sub_(exact).mul_(step).abs_()


@contextmanager
def watch(quantizers: dict[str, torch.nn.Module], shares: Tensor | None = None) -> Iterator[dict[str, TensorHistogram]]:
    """Count what reaches each quantizer while the block runs.

    Args:
        quantizers: modules by name; each is called with the tensor it would quantize.
        shares: how much each element of a batch counts, (N,); 1 when left out, and for tensors of another batch size.
    """
    histograms = {name: TensorHistogram() for name in quantizers}

    def hook_for(histogram: TensorHistogram) -> object:
        def count(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach()
            histogram.update(values, shares if shares is not None and len(values) == len(shares) else None)

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
