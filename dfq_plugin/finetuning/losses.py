"""Distillation losses, pure functions with their reductions written out."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student): summed over classes, averaged over images (Hinton et al., arXiv:1503.02531).

    Args:
        student_logits: (N, classes).
        teacher_logits: (N, classes).
        temperature: softens both distributions; the factor T^2 keeps the gradient's size independent of it.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    per_image = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * per_image.mean()


def mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of the logits, both (N, classes), averaged over images and classes."""
    return (student_logits - teacher_logits).square().mean()
