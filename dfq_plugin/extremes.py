"""The range of a tensor over many batches, as the data-free fine-tuning papers follow it."""

from __future__ import annotations

from torch import Tensor

KEEP = 0.9  # of the average at every batch; GDFQ, Qimera, AdaDFQ and IntraQ all use it


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
