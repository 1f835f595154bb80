"""Where the classes lie in the space of pooled features, as far as images of them exist."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassCentres:
    """Mean pooled feature of each class over the images added so far.

    The sums are kept in double precision on the CPU, so that they depend on the order of the batches only.

    Args:
        num_classes: How many classes there are.
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = torch.zeros(num_classes, dtype=torch.float64)
        self._sums: Tensor | None = None

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Count images in.

        Args:
            features: (N, D), their pooled features.
            labels: (N,) int64, their classes.
        """
        features = features.detach().to("cpu", torch.float64)
        if self._sums is None:
            self._sums = torch.zeros(len(self._counts), features.shape[1], dtype=torch.float64)
        self._sums.index_add_(0, labels, features)
        self._counts += torch.bincount(labels, minlength=len(self._counts))

    def of(self, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Look up the centre of each image's class; None before the first image was added.

        Args:
            labels: (N,) int64.

        Returns:
            The centres, (N, D) float32, zero where the class has no image yet; and whether it has, (N,) bool.
        """
        if self._sums is None:
            return None
        counts = self._counts[labels]
        centres = self._sums[labels] / counts.clamp(min=1).unsqueeze(1)
        return centres.float(), counts > 0
