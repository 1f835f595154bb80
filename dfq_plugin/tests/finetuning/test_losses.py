"""The losses, against sums done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dfq_plugin.finetuning.losses import (
    attention,
    attention_loss,
    cross_entropy_loss,
    disagreement_loss,
    feature_loss,
    kl_loss,
    mse_loss,
)

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

    def test_can_be_averaged_over_classes_too(self) -> None:
        student = torch.tensor([UNSURE, SURE])
        teacher = torch.tensor([SURE, SURE])
        assert kl_loss(student, teacher, 2.0, "mean").item() == pytest.approx(kl_loss(student, teacher, 2.0).item() / 2)


class TestCrossEntropy:
    def test_is_averaged_over_images(self) -> None:
        found = cross_entropy_loss(torch.tensor([SURE, UNSURE]), torch.tensor([1, 0]))
        assert found.item() == pytest.approx((math.log(4.0) + math.log(2.0)) / 2)

    def test_takes_soft_labels(self) -> None:
        found = cross_entropy_loss(torch.tensor([SURE]), torch.tensor([[0.25, 0.75]]))
        assert found.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4.0))


class TestDisagreement:
    h_sure = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))

    def test_is_minus_the_entropy_of_the_difference_averaged_over_images(self) -> None:
        teacher, student = torch.tensor([[5.0 + SURE[0], 2.0], UNSURE]), torch.tensor([[5.0, 2.0], UNSURE])
        expected = -(self.h_sure + math.log(2.0)) / 2
        assert disagreement_loss(student, teacher, 1.0).item() == pytest.approx(expected)

    def test_is_softened_and_scaled_by_the_squared_temperature(self) -> None:
        found = disagreement_loss(torch.tensor([UNSURE]), 20.0 * torch.tensor([SURE]), 20.0)
        assert found.item() == pytest.approx(-400.0 * self.h_sure)

    def test_is_least_where_the_two_agree_up_to_a_constant(self) -> None:
        logits = torch.tensor([[1.0, -2.0, 0.5]])
        assert disagreement_loss(logits + 3.0, logits, 2.0).item() == pytest.approx(-4.0 * math.log(3.0))
        assert disagreement_loss(logits * 2.0, logits, 2.0).item() > -4.0 * math.log(3.0)

    def test_draws_the_student_towards_the_teacher(self) -> None:
        student = torch.tensor([[0.0, 0.0]], requires_grad=True)
        disagreement_loss(student, torch.tensor([[1.0, 0.0]]), 1.0).backward()
        assert student.grad is not None
        assert student.grad[0, 0] < 0 < student.grad[0, 1]


class TestFeatures:
    def test_are_averaged_over_elements_then_over_layers(self) -> None:
        first = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        second = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 5.0)
        found = feature_loss([first[0], second[0]], [first[1], second[1]])
        assert found.item() == pytest.approx((14.0 / 4 + 25.0) / 2)

    def test_of_other_numbers_of_layers_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            feature_loss([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)])


class TestAttention:
    def test_is_the_sum_of_squared_channels_of_length_one_for_each_image(self) -> None:
        maps = torch.tensor([[[[1.0, 0.0]], [[-1.0, 2.0]]], [[[10.0, 0.0]], [[0.0, 0.0]]]])  # energies [2, 4], [100, 0]
        assert attention(maps).tolist() == [pytest.approx([1 / 5**0.5, 2 / 5**0.5]), [1.0, 0.0]]

    def test_loss_is_half_the_distance_averaged_over_images_and_summed_over_layers(self) -> None:
        left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]])
        apart = math.sqrt(2.0)
        assert attention_loss([left], [right]).item() == pytest.approx(apart / 2)
        both = torch.cat([left, left]), torch.cat([right, torch.tensor([[[[1.0, 0.0]], [[7.0, 0.0]]]])])
        assert attention_loss([both[0]], [both[1]]).item() == pytest.approx(apart / 2 / 2)
        assert attention_loss([left, left], [right, right]).item() == pytest.approx(apart)

    def test_does_not_depend_on_the_size_of_the_maps_values(self) -> None:
        maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        assert attention_loss([5 * maps], [maps]).item() == pytest.approx(0.0, abs=1e-6)

    def test_has_a_finite_gradient_where_there_is_no_distance_and_where_there_is_nothing(self) -> None:
        for maps in (torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)):
            student = maps.clone().requires_grad_()
            attention_loss([student], [maps]).backward()
            assert student.grad is not None
            assert student.grad.isfinite().all()


class TestMSE:
    def test_is_averaged_over_images_and_classes(self) -> None:
        student = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
        teacher = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 1.0]])
        assert mse_loss(student, teacher).item() == pytest.approx((4.0 + 1.0 + 1.0) / 6)
