"""AdaDFQ's terms, against sums done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dfq_plugin.synthesis.adaptability import balance_loss, entropy, margin_loss, normalised_entropy

# Two classes whose logits differ by log 3 have probabilities 3/4 and 1/4; equal logits have a half each.
SURE, UNSURE = [math.log(3.0), 0.0], [0.0, 0.0]
H_SURE = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
LN2 = math.log(2.0)


class TestEntropy:
    def test_is_summed_over_classes_for_each_image(self) -> None:
        assert entropy(torch.tensor([SURE, UNSURE])).tolist() == pytest.approx([H_SURE, LN2])

    def test_of_a_certain_answer_is_zero_and_finite(self) -> None:
        assert entropy(torch.tensor([[500.0, -500.0]])).item() == 0.0


class TestNormalisedEntropy:
    def test_goes_from_the_least_in_the_batch_to_the_uniform_one(self) -> None:
        certain = [1000.0, 0.0]
        found = normalised_entropy(torch.tensor([SURE, UNSURE, certain]))
        assert found.tolist() == pytest.approx([H_SURE / LN2, 1.0, 0.0])
        found = normalised_entropy(torch.tensor([SURE, UNSURE]))
        assert found.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)

    def test_of_equal_networks_is_finite_with_its_gradient(self) -> None:
        logits = torch.zeros(3, 4, requires_grad=True)
        normalised_entropy(logits).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_gradient_flows_through_the_least_entropy(self) -> None:
        logits = torch.tensor([SURE, [0.3, 0.0]], requires_grad=True)
        normalised_entropy(logits)[1].backward()
        assert logits.grad is not None
        assert logits.grad[0].abs().sum() > 0


class TestMargin:
    def test_is_what_lies_outside_averaged_over_all_images(self) -> None:
        normalised = torch.tensor([0.0, 0.05, 0.5, 0.9])
        assert margin_loss(normalised, 0.1, 0.8).item() == pytest.approx((0.1 + 0.05) / 4 + 0.1 / 4)

    def test_is_zero_inside(self) -> None:
        assert margin_loss(torch.tensor([0.1, 0.5, 0.8]), 0.1, 0.8).item() == 0.0

    @pytest.mark.parametrize("count", [1, 16, 37])
    def test_takes_any_number_of_images(self, count: int) -> None:
        assert margin_loss(torch.ones(count), 0.1, 0.8).item() == pytest.approx(0.2)


class TestBalance:
    teacher, student = torch.tensor([[2 * LN2, 0.0], [0.0, 0.0]]), torch.tensor([[LN2, 0.0], [0.0, LN2]])
    labels = torch.tensor([0, 0])
    # differences [ln 2, 0] and [0, -ln 2]; sums [3 ln 2, 0] and [0, ln 2]
    differ = (math.log(3 / 2) + math.log(3 / 2)) / 2
    agree = (math.log(9 / 8) + math.log(3.0)) / 2

    def test_is_the_weighted_sum_of_both(self) -> None:
        found = balance_loss(self.teacher, self.student, self.labels, 0.2, 0.1)
        assert found.item() == pytest.approx(0.2 * self.differ + 0.1 * self.agree)

    def test_weighs_each_by_its_own(self) -> None:
        assert balance_loss(self.teacher, self.student, self.labels, 1.0, 0.0).item() == pytest.approx(self.differ)
        assert balance_loss(self.teacher, self.student, self.labels, 0.0, 1.0).item() == pytest.approx(self.agree)

    def test_takes_soft_labels(self) -> None:
        soft = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        found = balance_loss(self.teacher, self.student, soft, 0.2, 0.1)
        assert found.item() == pytest.approx(0.2 * self.differ + 0.1 * self.agree)
