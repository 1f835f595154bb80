from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dfq_plugin.synthesis.batchnorm import BatchNormStatistics
from dfq_plugin.synthesis.inversion_losses import (
    batchnorm_norm_loss,
    competition_loss,
    image_norm,
    total_variation_mean,
    total_variation_norm,
)

Values = list[float]


def layer(mean_gap: Values, variance_gap: Values) -> BatchNormStatistics:
    stored_mean, stored_variance = torch.full((len(mean_gap),), 5.0), torch.full((len(mean_gap),), 7.0)
    mean, variance = stored_mean + torch.tensor(mean_gap), stored_variance + torch.tensor(variance_gap)
    return BatchNormStatistics("layer", mean, variance, stored_mean, stored_variance, eps=1e-5, count=8)


class TestBatchnormNormLoss:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            pytest.param([layer([0.0], [0.0])], 0.0, id="zero_at_the_optimum"),
            pytest.param([layer([3.0, -4.0], [0.0, 0.0])], 10 * 5.0, id="mean_as_a_norm_neither_squared_nor_averaged"),
            pytest.param([layer([0.0, 0.0], [3.0, 4.0])], 10 * 5.0, id="variance_as_a_norm_likewise"),
            pytest.param([layer([2.0], [3.0])], 10 * 5.0, id="mean_and_variance_are_two_norms"),
            pytest.param([layer([2.0], [0.0]), layer([3.0], [0.0]), layer([0.0], [4.0])], 27.0, id="first_counts_10"),
        ],
    )
    def test_matches_hand_computed_value(self, layers: list[BatchNormStatistics], expected: float) -> None:
        assert batchnorm_norm_loss(layers, 10.0).item() == pytest.approx(expected)

    def test_gradient_is_finite_at_the_optimum(self) -> None:
        mean = torch.zeros(2, requires_grad=True)
        exact = BatchNormStatistics("", mean, torch.ones(2), torch.zeros(2), torch.ones(2), eps=1e-5, count=8)
        batchnorm_norm_loss([exact], 1.0).backward()
        assert mean.grad is not None
        assert mean.grad.tolist() == [0.0, 0.0]


# Differences of [[0, 1], [3, 7]]: sideways 1 and 4, downwards 3 and 6, diagonal 7, other diagonal 3 - 1 = 2.
SQUARE = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]])


class TestTotalVariation:
    def test_norm_matches_hand_computed_value(self) -> None:
        expected = math.sqrt(1 + 16) + math.sqrt(9 + 36) + 7 + 2
        assert total_variation_norm(SQUARE).item() == pytest.approx(expected)

    def test_mean_matches_hand_computed_value(self) -> None:
        assert total_variation_mean(SQUARE).item() == pytest.approx(5 / 2 + 9 / 2 + 7 + 2)

    def test_sign_of_a_difference_does_not_matter(self) -> None:
        assert total_variation_mean(-SQUARE).item() == pytest.approx(16.0)

    def test_norm_runs_over_the_whole_batch(self) -> None:
        four = SQUARE.expand(4, 1, 2, 2)
        assert total_variation_norm(four).item() == pytest.approx(2 * total_variation_norm(SQUARE).item())
        assert total_variation_mean(four).item() == pytest.approx(total_variation_mean(SQUARE).item())

    def test_flat_images_have_none_and_a_finite_gradient(self) -> None:
        flat = torch.full((2, 3, 4, 4), 2.0, requires_grad=True)
        loss = total_variation_norm(flat) + total_variation_mean(flat)
        loss.backward()
        assert loss.item() == 0.0
        assert flat.grad is not None
        assert flat.grad.isfinite().all()

    def test_norm_of_an_image_of_one_row_is_finite(self) -> None:
        assert total_variation_norm(SQUARE[:, :, :1]).item() == pytest.approx(1.0)


class TestImageNorm:
    def test_matches_hand_computed_value(self) -> None:
        images = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).view(2, 1, 2, 2)
        assert image_norm(images).item() == pytest.approx((5 + 1) / 2)


def logits_of(*probabilities: Values, temperature: float = 3.0) -> Tensor:
    return temperature * torch.tensor(probabilities).log()


class TestCompetitionLoss:
    def test_matches_hand_computed_value(self) -> None:
        # Mixture of (0.8, 0.2) and (0.4, 0.6): (0.6, 0.4), which comes first in both divergences.
        student, teacher = logits_of([0.8, 0.2]), logits_of([0.4, 0.6])
        first = 0.6 * math.log(0.6 / 0.8) + 0.4 * math.log(0.4 / 0.2)
        second = 0.6 * math.log(0.6 / 0.4) + 0.4 * math.log(0.4 / 0.6)
        loss = competition_loss(student, teacher, 3.0).item()
        assert loss == pytest.approx(1 - (first + second) / 2, abs=1e-5)

    def test_is_1_where_they_agree(self) -> None:
        logits = logits_of([0.7, 0.2, 0.1])
        assert competition_loss(logits, logits.clone(), 3.0).item() == pytest.approx(1.0)

    def test_is_averaged_over_images(self) -> None:
        student, teacher = logits_of([0.8, 0.2], [0.5, 0.5]), logits_of([0.4, 0.6], [0.5, 0.5])
        alone = 1 - competition_loss(student[:1], teacher[:1], 3.0).item()
        assert 1 - competition_loss(student, teacher, 3.0).item() == pytest.approx(alone / 2, abs=1e-5)

    def test_certain_answers_are_kept_within_bounds(self) -> None:
        opposite = competition_loss(torch.tensor([[900.0, 0.0]]), torch.tensor([[0.0, 900.0]]), 3.0)
        divergence = 0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01)
        assert opposite.item() == pytest.approx(max(0.0, 1 - divergence), abs=1e-5)

    def test_a_step_down_drives_student_and_teacher_apart(self) -> None:
        student, teacher = logits_of([0.6, 0.4]).requires_grad_(), logits_of([0.4, 0.6])
        competition_loss(student, teacher, 3.0).backward()
        assert student.grad is not None
        after = (student.detach() - student.grad).div(3).softmax(dim=1)
        assert after[0, 0].item() > 0.6
