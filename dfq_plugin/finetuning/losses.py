"""What a student can be trained by: pure functions with their reductions written out.

What distillation compares comes in the order (student, teacher); gradients go to the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    reduction: Literal["batchmean", "mean"] = "batchmean",
) -> Tensor:
    """T^2 * KL(teacher || student): summed over classes, averaged over images (Hinton et al., arXiv:1503.02531).

    Args:
        student_logits: (N, classes).
        teacher_logits: (N, classes).
        temperature: softens both distributions; the factor T^2 keeps the gradient's size independent of it.
        reduction: "mean" averages over the classes as well, which divides the loss by their number: the form in which
            GDFQ and Qimera weigh it.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    by_class = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    per_image = by_class.sum(dim=1) if reduction == "batchmean" else by_class.mean(dim=1)
    return temperature**2 * per_image.mean()


def mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of the logits, both (N, classes), averaged over images and classes."""
    return (student_logits - teacher_logits).square().mean()


def cross_entropy_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the labels, averaged over images.

    Args:
        student_logits: (N, classes).
        targets: (N,) int64, or soft labels (N, classes).
    """
    return F.cross_entropy(student_logits, targets, reduction="mean")


def disagreement_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """-T^2 times the entropy of softmax((teacher - student) / T), averaged over images (AdaDFQ, arXiv:2303.06869).

    Least, -T^2 * ln(classes), where the two differ by a constant: nothing is left to disagree about.

    Args:
        student_logits: (N, classes).
        teacher_logits: (N, classes).
        temperature: 20 for CIFAR and 5 for ImageNet in the released code.
    """
    log_share = F.log_softmax((teacher_logits - student_logits) / temperature, dim=1)
    entropy = -(log_share.exp() * log_share).sum(dim=1)
    return -(temperature**2) * entropy.mean()


def feature_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Squared distance of the outputs of layers, averaged over all elements of a layer, then over layers.

    Args:
        student_features: one tensor a layer, images first.
        teacher_features: likewise, of the same shapes.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    return torch.stack([(student - teacher).square().mean() for student, teacher in pairs]).mean()


def attention_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Half the distance of the normalised attention maps, averaged over images, summed over layers.

    Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928, equation 2): the attention of a layer is
    the sum of its squared channels, as one vector of length 1 an image.

    Args:
        student_maps: one tensor (N, C, H, W) a layer.
        teacher_maps: likewise; the numbers of channels may differ.
    """
    pairs = zip(student_maps, teacher_maps, strict=True)
    distances = [torch.linalg.vector_norm(attention(student) - attention(teacher), dim=1) for student, teacher in pairs]
    return torch.stack([distance.mean() for distance in distances]).sum() / 2


def attention(maps: Tensor) -> Tensor:
    """Where a layer looks, (N, H * W) of length 1, from its output, (N, C, H, W)."""
    return F.normalize(maps.square().sum(dim=1).flatten(start_dim=1), dim=1)
