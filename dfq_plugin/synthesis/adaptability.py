"""How much a student can learn from an image, as AdaDFQ measures it: pure functions, one formula each.

Teacher and student disagree where the difference of their logits is far from flat, and agree where their sum is.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

SMALLEST_SPAN = 1e-8  # keeps equal entropies from being divided by zero when teacher and student are the same


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row's softmax, (N,), of logits, (N, classes)."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


def normalised_entropy(logits: Tensor) -> Tensor:
    """Entropy of each row's softmax on a scale from the least in the batch, 0, to that of a uniform one, 1.

    Args:
        logits: (N, classes). Gradients flow through the least entropy as well.

    Returns:
        (N,) in 0..1. AdaDFQ calls one minus it, taken of the difference of the logits of teacher and student, the
        adaptability of an image.
    """
    entropies = entropy(logits)
    least = entropies.min()
    return (entropies - least) / (math.log(logits.shape[1]) - least).clamp(min=SMALLEST_SPAN)


def margin_loss(normalised: Tensor, lower: float, upper: float) -> Tensor:
    """Keep normalised entropies between two margins.

    Args:
        normalised: (N,) in 0..1.
        lower: Smallest without a penalty.
        upper: Largest without a penalty.

    Returns:
        Scalar, averaged over the images.
    """
    return (lower - normalised).relu().mean() + (normalised - upper).relu().mean()


def balance_loss(
    teacher_logits: Tensor, student_logits: Tensor, targets: Tensor, disagreement: float, agreement: float
) -> Tensor:
    """Cross-entropy with the label of what the two disagree about and of what they agree about, by weight.

    Args:
        teacher_logits: (N, classes).
        student_logits: (N, classes).
        targets: (N,) int64, or (N, classes) probabilities.
        disagreement: Weight of the cross-entropy of the difference, teacher minus student.
        agreement: Weight of the cross-entropy of the sum.

    Returns:
        Scalar, averaged over the images.
    """
    differ = F.cross_entropy(teacher_logits - student_logits, targets)
    agree = F.cross_entropy(teacher_logits + student_logits, targets)
    return disagreement * differ + agreement * agree
