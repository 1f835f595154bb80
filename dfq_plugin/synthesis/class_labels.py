"""Labels for synthetic images that give every class the same number of images."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_labels(num_classes: int, first: int, count: int, seed: int) -> Tensor:
    """Give the classes of images ``first`` to ``first + count - 1`` of a set, in an order that the seed decides.

    Counts of classes differ by one image at most over the whole set, wherever it is cut into batches.

    Args:
        num_classes: How many classes there are.
        first: Place of the first image within the set.
        count: How many images, N.
        seed: Decides which classes come first.

    Returns:
        (N,) int64.
    """
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    return order[torch.arange(first, first + count) % num_classes]
