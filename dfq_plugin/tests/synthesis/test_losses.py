from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dfq_plugin.synthesis.batchnorm import BatchNormStatistics
from dfq_plugin.synthesis.losses import (
    batchnorm_loss,
    deviation_loss,
    input_statistics,
    marginal_distance_loss,
    soft_inception_loss,
    zeroq_loss,
)

Values = list[float]


def layer(mean: Values, variance: Values, stored_mean: Values, stored_variance: Values) -> BatchNormStatistics:
    seen, stored = (
        (torch.tensor(mean), torch.tensor(variance)),
        (torch.tensor(stored_mean), torch.tensor(stored_variance)),
    )
    return BatchNormStatistics("layer", *seen, *stored, eps=1e-5, count=8)


def image_layer(
    mean: list[Values], variance: list[Values], stored: tuple[Values, Values], count: int
) -> BatchNormStatistics:
    stored_mean, stored_variance = map(torch.tensor, stored)
    return BatchNormStatistics(
        "layer", torch.tensor(mean), torch.tensor(variance), stored_mean, stored_variance, eps=1e-5, count=count
    )


MATCHED = layer([1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [3.0, 4.0])
MEAN_OFF_BY_2 = layer([1.0], [1.0], [3.0], [1.0])


class TestBatchnormLoss:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            pytest.param([MATCHED], 0.0, id="zero_at_the_optimum"),
            pytest.param([MEAN_OFF_BY_2], 4.0, id="mean_off_by_2"),
            pytest.param([layer([0.0], [9.0], [0.0], [1.0])], 64.0, id="variance_off_by_8_not_std_off_by_2"),
            pytest.param([layer([2.0], [4.0], [0.0], [1.0])], 13.0, id="mean_and_variance_add_up"),
            pytest.param(
                [layer([2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0])], 2.0, id="means_averaged_over_channels"
            ),
            pytest.param(
                [layer([0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [1.0, 1.0])], 2.0, id="variances_averaged_likewise"
            ),
            pytest.param([MEAN_OFF_BY_2, MATCHED], 2.0, id="averaged_over_layers"),
        ],
    )
    def test_matches_hand_computed_value(self, layers: list[BatchNormStatistics], expected: float) -> None:
        assert batchnorm_loss(layers).item() == pytest.approx(expected)


class TestZeroqLoss:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            pytest.param(
                [image_layer([[3.0]], [[1.0]], ([3.0], [2.0]), 2)], 0.0, id="zero_when_unbiased_variance_fits"
            ),
            pytest.param([image_layer([[1.0]], [[0.5]], ([3.0], [1.0]), 2)], 4.0, id="mean_off_by_2"),
            pytest.param([image_layer([[0.0]], [[4.5]], ([0.0], [1.0]), 2)], 4.0, id="std_off_by_2"),
            pytest.param([image_layer([[2.0, 1.0]], [[0.5, 0.5]], ([0.0] * 2, [1.0] * 2), 2)], 5.0, id="channels_sum"),
            pytest.param([image_layer([[2.0], [0.0]], [[0.5], [0.5]], ([0.0], [1.0]), 2)], 2.0, id="images_average"),
            pytest.param([image_layer([[1.0]], [[0.5]], ([3.0], [1.0]), 2)] * 2, 8.0, id="layers_sum"),
            pytest.param([image_layer([[1.0]], [[0.0]], ([3.0], [9.0]), 1)], 4.0, id="mean_only_when_one_value"),
        ],
    )
    def test_matches_hand_computed_value(self, layers: list[BatchNormStatistics], expected: float) -> None:
        assert zeroq_loss(layers).item() == pytest.approx(expected, abs=1e-5)

    def test_opposite_gaps_of_two_images_do_not_cancel(self) -> None:
        gaps = image_layer([[2.0], [-2.0]], [[0.5], [0.5]], ([0.0], [1.0]), 2)
        assert zeroq_loss([gaps]).item() == pytest.approx(4.0, abs=1e-5)

    def test_gradient_is_finite_when_an_image_is_flat(self) -> None:
        images = torch.zeros(1, 3, 4, 4, requires_grad=True)
        zeroq_loss([input_statistics(images)]).backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()


def batch_layer(mean: Values, variance: Values, stored: tuple[Values, Values], count: int) -> BatchNormStatistics:
    stored_mean, stored_variance = map(torch.tensor, stored)
    seen = torch.tensor(mean), torch.tensor(variance)
    return BatchNormStatistics("layer", *seen, stored_mean, stored_variance, eps=1e-5, count=count)


class TestDeviationLoss:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            pytest.param([batch_layer([3.0], [1.0], ([3.0], [2.0]), 2)], 0.0, id="zero_when_unbiased_variance_fits"),
            pytest.param([batch_layer([1.0], [0.5], ([3.0], [1.0]), 2)], 4.0, id="mean_off_by_2"),
            pytest.param([batch_layer([0.0], [4.5], ([0.0], [1.0]), 2)], 4.0, id="std_off_by_2_not_variance_by_8"),
            pytest.param([batch_layer([2.0, 0.0], [0.5, 0.5], ([0.0] * 2, [1.0] * 2), 2)], 2.0, id="channels_average"),
            pytest.param([batch_layer([2.0], [4.5], ([0.0], [1.0]), 2)], 8.0, id="mean_and_std_add_up"),
            pytest.param([batch_layer([1.0], [0.5], ([3.0], [1.0]), 2)] * 3, 12.0, id="layers_sum"),
            pytest.param([batch_layer([1.0], [0.0], ([3.0], [9.0]), 1)], 4.0, id="mean_only_when_one_value"),
        ],
    )
    def test_matches_hand_computed_value(self, layers: list[BatchNormStatistics], expected: float) -> None:
        assert deviation_loss(layers).item() == pytest.approx(expected, abs=1e-5)


class TestInputStatistics:
    def test_loss_is_zero_when_images_have_mean_0_and_variance_1(self) -> None:
        images = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2) * math.sqrt(3 / 4)  # unbiased variance 1
        assert zeroq_loss([input_statistics(images)]).item() == pytest.approx(0.0, abs=1e-6)

    def test_each_image_is_held_to_it(self) -> None:
        images = torch.stack([torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), -3.0)])
        assert zeroq_loss([input_statistics(images)]).item() == pytest.approx(9.0 + (1.0 - 1e-3) ** 2, abs=1e-4)


class TestSoftInceptionLoss:
    LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]]))

    @pytest.mark.parametrize(
        ("labels", "targets", "expected"),
        [
            pytest.param([0, 1], [0.5, 0.7], 0.0, id="zero_at_the_soft_target"),
            pytest.param([0, 1], [1.0, 0.7], 0.125, id="averaged_over_images"),
            pytest.param([1, 2], [1.0, 1.0], (0.5625 + 0.64) / 2, id="own_class_only"),
        ],
    )
    def test_matches_hand_computed_value(self, labels: list[int], targets: Values, expected: float) -> None:
        loss = soft_inception_loss(self.LOGITS, torch.tensor(labels), torch.tensor(targets))
        assert loss.item() == pytest.approx(expected, abs=1e-6)

    def test_a_step_down_raises_the_own_probability_when_below_target(self) -> None:
        logits = torch.zeros(1, 3, requires_grad=True)
        soft_inception_loss(logits, torch.tensor([2]), torch.tensor([1.0])).backward()
        assert logits.grad is not None
        assert (-logits.grad).argmax().item() == 2


def features_at(*cosines: float) -> Tensor:
    """Make features of length 3 with these cosines to the centre (1, 0)."""
    return torch.tensor([[3 * cosine, 3 * math.sqrt(1 - cosine**2)] for cosine in cosines])


class TestMarginalDistanceLoss:
    @pytest.mark.parametrize(
        ("cosines", "known", "expected"),
        [
            pytest.param([1.0], [True], 0.3, id="collapsed_onto_the_centre"),
            pytest.param([0.9], [True], 0.2, id="too_near"),
            pytest.param([0.5], [True], 0.0, id="between_the_margins"),
            pytest.param([0.0], [True], 0.2, id="too_far"),
            pytest.param([-1.0], [True], 1.2, id="opposite"),
            pytest.param([1.0, 0.5], [True, True], 0.15, id="averaged_over_images"),
            pytest.param([1.0, -1.0], [True, False], 0.3, id="unseen_classes_do_not_count"),
            pytest.param([1.0, -1.0], [False, False], 0.0, id="zero_when_no_class_is_known"),
        ],
    )
    def test_matches_hand_computed_value(self, cosines: Values, known: list[bool], expected: float) -> None:
        centres = torch.tensor([[2.0, 0.0]]).expand(len(cosines), 2)
        loss = marginal_distance_loss(features_at(*cosines), centres, torch.tensor(known), 0.3, 0.8)
        assert loss.item() == pytest.approx(expected, abs=1e-6)

    def test_masked_images_get_no_gradient(self) -> None:
        features = features_at(0.9, 0.9).requires_grad_()
        centres = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # the centre of an unseen class is zero
        marginal_distance_loss(features, centres, torch.tensor([True, False]), 0.3, 0.8).backward()
        assert features.grad is not None
        assert features.grad[0].abs().sum() > 0
        assert features.grad[1].tolist() == [0.0, 0.0]

    def test_gradient_is_finite_when_a_feature_is_zero(self) -> None:
        features = torch.zeros(1, 2, requires_grad=True)
        marginal_distance_loss(features, torch.tensor([[1.0, 0.0]]), torch.tensor([True]), 0.3, 0.8).backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()

    @pytest.mark.parametrize(("cosine", "nearer"), [(0.95, False), (-0.5, True)])
    def test_a_step_down_moves_towards_the_margins(self, cosine: float, nearer: bool) -> None:
        features, centre = features_at(cosine).requires_grad_(), torch.tensor([[1.0, 0.0]])
        marginal_distance_loss(features, centre, torch.tensor([True]), 0.3, 0.8).backward()
        assert features.grad is not None
        after = torch.cosine_similarity(features.detach() - 0.1 * features.grad, centre).item()
        assert (after > cosine) is nearer
