"""The losses, against sums done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dfq_plugin.finetuning.losses import kl_loss, mse_loss

# Two classes whose logits differ by log 3 have probabilities 3/4 and 1/4; equal logits have a half each.
SURE = [math.log(3.0), 0.0]
UNSURE = [0.0, 0.0]
KL_SURE_UNSURE = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
KL_UNSURE_SURE = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)


class TestKL:
    def test_is_from_teacher_to_student(self) -> None:
        student, teacher = torch.tensor([UNSURE]), torch.tensor([SURE])
        assert kl_loss(student, teacher, 1.0).item() == pytest.approx(KL_SURE_UNSURE)
        assert kl_loss(teacher, student, 1.0).item() == pytest.approx(KL_UNSURE_SURE)

    def test_is_summed_over_classes_and_averaged_over_images(self) -> None:
        student = torch.tensor([UNSURE, SURE, UNSURE, UNSURE])
        teacher = torch.tensor([SURE, SURE, SURE, UNSURE])
        assert kl_loss(student, teacher, 1.0).item() == pytest.approx(2 * KL_SURE_UNSURE / 4)

    def test_is_softened_and_scaled_back_by_the_squared_temperature(self) -> None:
        student, teacher = torch.tensor([UNSURE]), 4.0 * torch.tensor([SURE])
        assert kl_loss(student, teacher, 4.0).item() == pytest.approx(16.0 * KL_SURE_UNSURE)

    def test_is_zero_when_logits_differ_by_a_constant(self) -> None:
        logits = torch.tensor([[1.0, -2.0, 0.5]])
        assert kl_loss(logits + 3.0, logits, 4.0).item() == pytest.approx(0.0, abs=1e-6)

    def test_gradient_hardly_depends_on_the_temperature_when_logits_are_small(self) -> None:
        gradients = []
        for temperature in (2.0, 8.0):
            student = torch.zeros(1, 3, requires_grad=True)
            kl_loss(student, torch.tensor([[0.02, -0.01, -0.01]]), temperature).backward()
            assert student.grad is not None
            gradients.append(student.grad[0, 0].item())
        assert gradients[0] == pytest.approx(gradients[1], rel=0.02)
        assert gradients[0] == pytest.approx(-0.02 / 3, rel=0.02)

    def test_stays_finite_when_the_student_is_certain_of_the_wrong_class(self) -> None:
        assert kl_loss(torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]]), 1.0).item() == pytest.approx(500.0)


class TestMSE:
    def test_is_averaged_over_images_and_classes(self) -> None:
        student = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
        teacher = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 1.0]])
        assert mse_loss(student, teacher).item() == pytest.approx((4.0 + 1.0 + 1.0) / 6)
