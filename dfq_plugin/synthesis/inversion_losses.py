"""The losses of DeepInversion: pure functions, one formula each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.synthesis.batchnorm import BatchNormStatistics

LOWEST_PROBABILITY, HIGHEST_PROBABILITY = 0.01, 0.99


def batchnorm_norm_loss(statistics: Sequence[BatchNormStatistics], first_weight: float) -> Tensor:
    """Euclidean distance between seen and stored mean, and likewise variance, summed over layers; not squared.

    Args:
        statistics: One entry per BatchNorm layer, moments (C,) over batch and space.
        first_weight: How many times the first layer counts.

    Returns:
        Scalar, zero exactly when every layer sees its training statistics.
    """
    per_layer: list[Tensor] = [
        torch.linalg.vector_norm(seen.mean - seen.stored_mean)
        + torch.linalg.vector_norm(seen.variance - seen.stored_variance)
        for seen in statistics
    ]
    return torch.stack([first_weight * per_layer[0], *per_layer[1:]]).sum()


def total_variation_norm(images: Tensor) -> Tensor:
    """Euclidean norm of all differences between neighbours in one direction, summed over the four directions.

    The norm runs over the whole batch, so that it grows with the square root of its size.

    Args:
        images: (N, C, H, W).

    Returns:
        Scalar, zero exactly when every image is flat.
    """
    return torch.stack([torch.linalg.vector_norm(differences) for differences in _differences(images)]).sum()


def total_variation_mean(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbours in one direction, summed over the four directions.

    Args:
        images: (N, C, H, W), with at least two rows and two columns.

    Returns:
        Scalar, zero exactly when every image is flat.
    """
    return torch.stack([differences.abs().mean() for differences in _differences(images)]).sum()


def image_norm(images: Tensor) -> Tensor:
    """Euclidean norm of each image, averaged over the images.

    Args:
        images: (N, C, H, W).
    """
    norms: Tensor = torch.linalg.vector_norm(images.flatten(start_dim=1), dim=1)
    return norms.mean()


def competition_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """One minus the Jensen-Shannon divergence of student and teacher, in nats: low where they disagree.

    Each divergence has the mixture as its first argument, and every probability is kept within 0.01..0.99, as in the
    released code.

    Args:
        student_logits: (N, num_classes).
        teacher_logits: (N, num_classes).
        temperature: What the logits are divided by.

    Returns:
        Scalar in 0..1, averaged over the images.
    """
    student, teacher = (logits.div(temperature).softmax(dim=1) for logits in (student_logits, teacher_logits))
    mixture = _kept_within((student + teacher) / 2)
    parts = [
        F.kl_div(_kept_within(probabilities).log(), mixture, reduction="batchmean")
        for probabilities in (student, teacher)
    ]
    return 1 - torch.stack(parts).mean().clamp(0, 1)


def _kept_within(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(LOWEST_PROBABILITY, HIGHEST_PROBABILITY)


def _differences(images: Tensor) -> list[Tensor]:
    """Subtract neighbours: side by side, one above the other, and along the two diagonals."""
    return [
        images[:, :, :, 1:] - images[:, :, :, :-1],
        images[:, :, 1:, :] - images[:, :, :-1, :],
        images[:, :, 1:, 1:] - images[:, :, :-1, :-1],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
    ]
