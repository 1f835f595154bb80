"""Losses that pull synthetic images towards what a teacher was trained on: pure functions, one formula each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.synthesis.batchnorm import BatchNormStatistics, input_moments

ROOT_EPS = 1e-6  # inside the square roots of ZeroQ and GENIE, in place of the layers' own eps


def batchnorm_loss(statistics: Sequence[BatchNormStatistics]) -> Tensor:
    """Squared distance between seen and stored mean and variance, averaged over channels, then over layers.

    The variance itself is compared, not its root: the form that GDFQ and the methods after it share.

    Args:
        statistics: One entry per BatchNorm layer, moments (C,) over batch and space.

    Returns:
        Scalar, zero exactly when every layer sees its training statistics.
    """
    per_layer = [
        F.mse_loss(seen.mean, seen.stored_mean, reduction="mean")
        + F.mse_loss(seen.variance, seen.stored_variance, reduction="mean")
        for seen in statistics
    ]
    return torch.stack(per_layer).mean()


def zeroq_loss(statistics: Sequence[BatchNormStatistics]) -> Tensor:
    """Squared distance of mean and standard deviation image by image, summed over channels and layers (ZeroQ).

    A layer that sees one value per image and channel has no unbiased variance; it counts with its mean only.

    Args:
        statistics: One entry per layer, moments (N, C) over the space of each image.

    Returns:
        Scalar, averaged over the images.
    """
    return torch.stack([_moment_gaps(seen).sum(dim=1).mean() for seen in statistics]).sum()


def deviation_loss(statistics: Sequence[BatchNormStatistics]) -> Tensor:
    """Squared distance of mean and standard deviation, averaged over channels and summed over layers (GENIE).

    A layer that sees one value per channel has no unbiased variance; it counts with its mean only.

    Args:
        statistics: One entry per BatchNorm layer, moments (C,) over batch and space.

    Returns:
        Scalar.
    """
    return torch.stack([_moment_gaps(seen).mean() for seen in statistics]).sum()


def input_statistics(images: Tensor) -> BatchNormStatistics:
    """Treat the images as the input of a layer that was trained on mean 0 and variance 1: ZeroQ's layer zero.

    Args:
        images: (N, C, H, W), normalised as the teacher expects them.

    Returns:
        An entry with the moments (N, C) of each image.
    """
    mean, variance = input_moments(images, per_image=True)
    target = mean.detach()[0]
    count = images.numel() // mean.numel()
    return BatchNormStatistics("", mean, variance, torch.zeros_like(target), torch.ones_like(target), 0.0, count)


def soft_inception_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Squared distance between the probability of an image's own class and its soft target, averaged over images.

    Args:
        logits: (N, num_classes).
        labels: (N,) int64.
        targets: (N,) in 0..1, the probability wanted for the image's own class.

    Returns:
        Scalar, zero exactly when every image has the wanted probability; the other classes do not matter.
    """
    own = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return (own - targets).square().mean()


def marginal_distance_loss(features: Tensor, centres: Tensor, known: Tensor, lower: float, upper: float) -> Tensor:
    """Keep each image's cosine distance from the centre of its class between two margins.

    Args:
        features: (N, D), pooled features of the images.
        centres: (N, D), centre of the class of each image; not read where ``known`` is False.
        known: (N,) bool, whether the class of the image has a centre yet.
        lower: Smallest distance without a penalty, so that images of a class do not collapse.
        upper: Largest distance without a penalty, so that they stay one class.

    Returns:
        Scalar, averaged over the images with a centre; zero when there is none, or when all keep the margins.
    """
    distance = 1 - F.cosine_similarity(features, centres, dim=1)
    outside = (lower - distance).relu() + (distance - upper).relu()
    return torch.where(known, outside, 0.0).sum() / known.sum().clamp(min=1)


def _moment_gaps(seen: BatchNormStatistics) -> Tensor:
    """Squared distances of mean and unbiased standard deviation from those stored, shaped as the moments."""
    gaps = (seen.mean - seen.stored_mean).square()
    if seen.count > 1:
        unbiased = seen.variance * (seen.count / (seen.count - 1))
        gaps = gaps + ((unbiased + ROOT_EPS).sqrt() - (seen.stored_variance + ROOT_EPS).sqrt()).square()
    return gaps
