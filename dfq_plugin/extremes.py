"""Ranges from the least to the largest value, as the data-free fine-tuning papers follow them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KEEP = 0.9  # of the average at every batch; GDFQ, Qimera, AdaDFQ and IntraQ all use it

DEAD_CHANNEL_REACH = 1e-2  # of a channel that is zero throughout, as a fraction of the largest; as NNCF has it


class MovingExtremes:
    """Exponential moving averages of a tensor's minimum and maximum, without a bias towards where they started.

    The released codes divide their state by ``1 - 0.9^t`` at every batch instead of only when it is read, which makes
    their ranges hundreds of times too wide for the first 150 batches; after those both are the same average.

    Attributes:
        low: Average minimum.
        high: Average maximum.
    """

    def __init__(self, low: float = 0.0, high: float = 0.0, weight: float = 0.0) -> None:
        self.low, self.high = low, high
        self._weight = weight  # of all batches so far in an average that had started at zero

    @property
    def state(self) -> tuple[float, float, float]:
        """What another one is made from that goes on where this one stands."""
        return self.low, self.high, self._weight

    def update(self, values: Tensor) -> None:
        """Count a batch in; ``values`` has any shape and at least one element."""
        least, most = (extreme.item() for extreme in values.detach().aminmax())
        self._weight = KEEP * self._weight + (1 - KEEP)
        share = (1 - KEEP) / self._weight  # 1 for the first batch, 0.1 after many
        self.low += share * (least - self.low)
        self.high += share * (most - self.high)


@torch.no_grad()
def cover_channels(quantizer: Any, weight: Tensor) -> None:  # noqa: ANN401 - an NNCF quantizer: NNCF ships no types
    """Let the quantizer of a weight reach from the least to the largest value of each of its channels.

    Args:
        quantizer: of the weight, of any kind.
        weight: any shape; its channels are on the axis on which the quantizer has several ranges.
    """
    ranges = quantizer.get_trainable_params()
    shape = next(iter(ranges.values())).shape
    others = [axis for axis in range(weight.ndim) if len(shape) != weight.ndim or shape[axis] == 1]
    low, high = weight.amin(others, keepdim=True).clamp(max=0.0), weight.amax(others, keepdim=True).clamp(min=0.0)
    reach = torch.maximum(high, -low)
    dead = reach == 0.0  # any range will do for them; one far below the others keeps their biases fine
    filler = reach.max() * DEAD_CHANNEL_REACH if bool(reach.any()) else reach.new_tensor(1.0)
    if "input_low" in ranges:  # NNCF itself moves the edges so that zero has a code
        ranges["input_low"].copy_(low.reshape(shape))
        ranges["input_range"].copy_(torch.where(dead, filler, high - low).reshape(shape))
    else:
        ranges["scale"].copy_(torch.where(dead, filler, reach).reshape(shape))
