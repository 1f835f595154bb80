"""GDFQ: its objective against sums done by hand, its draws, and that it lowers what it minimises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dfq_plugin.batches import Batch
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.gdfq import GDFQ, LabelMethod
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics
from dfq_plugin.synthesis.generator_source import Seen
from dfq_plugin.synthesis.generators import LabelGenerator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract


class TestContract(ProviderContract):
    provider = GDFQ(steps=6, steps_per_epoch=3, batch_size=2)
    keeps_batches = True


def make_method(batchnorm_weight: float = 0.1) -> LabelMethod:
    return LabelMethod(LabelGenerator((3, 8, 8), 6, 4, large=False), 6, batchnorm_weight)


def statistics(mean: float, variance: float) -> BatchNormStatistics:
    """A layer of two channels, trained on mean 0 and variance 1; the second channel is as it should be."""
    seen = torch.tensor([mean, 0.0]), torch.tensor([variance, 1.0])
    return BatchNormStatistics("bn", *seen, torch.zeros(2), torch.ones(2), 1e-5, 8)


def test_it_is_registered_as_an_online_provider() -> None:
    assert get_provider("gdfq") is GDFQ
    assert GDFQ.online


def test_objective_is_cross_entropy_and_a_tenth_of_the_batchnorm_distance() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    batch = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    seen = Seen(batch, logits, [statistics(2.0, 4.0), statistics(0.0, 1.0)], nn.Identity())
    objective = make_method().objective(seen)
    terms = {name: term.item() for name, term in objective.terms.items()}
    assert terms["cross_entropy"] == pytest.approx((math.log(4 / 3) + math.log(2.0)) / 2)
    assert terms["batchnorm"] == pytest.approx(0.1 * ((4 / 2 + 9 / 2) + 0) / 2)
    assert terms.keys() == {"cross_entropy", "batchnorm"}
    assert objective.watched == {}


def test_draw_shows_every_class_and_each_image_once() -> None:
    with torch.no_grad():
        batch = make_method().draw(200, torch.Generator().manual_seed(0))
    assert batch.labels is not None
    assert batch.labels.bincount(minlength=4).min() > 25
    assert len(batch.images.flatten(1).unique(dim=0)) == 200


def test_training_lowers_the_loss_and_makes_images_that_are_seen_as_their_labels() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    with frozen(teacher):
        source = GDFQ(batch_size=16, steps_per_epoch=5).make_source(teacher, facts, seed=0)
        before = source.draw(64)
        for _ in range(40):
            source.next_batch(nn.Identity())
        after = source.draw(64)
        right = [
            (teacher(drawn.images).argmax(dim=1) == drawn.labels).double().mean().item() for drawn in (before, after)
        ]
    curves = source.curves()
    sums = [curves["generator.cross_entropy"][epoch] + curves["generator.batchnorm"][epoch] for epoch in (0, -1)]
    assert sums[1] < 0.7 * sums[0]
    assert right[0] < 0.4
    assert right[1] > 0.6


def test_a_teacher_without_batchnorm_is_refused() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    with pytest.raises(UnsupportedModelError, match="'gdfq' matches the statistics"):
        GDFQ()(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(2, 0))
