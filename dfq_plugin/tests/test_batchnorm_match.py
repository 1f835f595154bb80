"""How far images are from what BatchNorm layers stored: worked by hand, in any batches, and on every kind of images."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin import batchnorm_match
from dfq_plugin.batchnorm_match import LayerMatch, distances, match_batchnorm
from dfq_plugin.images import LabelledImages
from dfq_plugin.synthetic_set import Provenance, SyntheticSet
from dfq_plugin.teacher import Teacher, read_facts
from dfq_plugin.testing import tiny_teacher

SHAPE = (3, 8, 8)


@pytest.fixture
def teacher() -> Teacher:
    network = tiny_teacher()
    return Teacher(network, read_facts(network, SHAPE))


def synthetic(images: Tensor) -> SyntheticSet:
    return SyntheticSet(images, None, None, Provenance("mine", {}, 0, "x", {}, "today"))


def one_layer(mean: float, deviation: float) -> Teacher:
    """A network whose only BatchNorm layer reads the image itself, and has stored these statistics for two channels."""
    norm = nn.BatchNorm2d(2, eps=0.0)
    norm.running_mean, norm.running_var = torch.full((2,), mean), torch.full((2,), deviation**2)
    network = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    return Teacher(network, read_facts(network, (2, 1, 2)))


def test_distance_is_that_of_normal_distributions_in_stored_deviations() -> None:
    # Channel 0 has mean 1 and deviation 1, channel 1 has mean 4 and deviation 4; stored are mean 1 and deviation 2.
    images = torch.tensor([[[[0.0, 2.0]], [[0.0, 8.0]]]])
    ((name, found),) = distances(one_layer(1.0, 2.0), images)
    assert name == "0"
    assert found == pytest.approx((math.hypot(0, 1) / 2 + math.hypot(3, 2) / 2) / 2)


def test_images_with_the_stored_statistics_have_no_distance() -> None:
    images = torch.tensor([[[[0.0, 2.0]]] * 2]).view(1, 2, 1, 2)
    ((_, found),) = distances(one_layer(1.0, 1.0), images)
    assert found == pytest.approx(0.0, abs=1e-6)


def test_moments_are_those_of_all_images_however_they_are_batched(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(10, *SHAPE) * torch.arange(1, 11).view(-1, 1, 1, 1)
    whole = distances(teacher, images)
    monkeypatch.setattr(batchnorm_match, "BATCH", 3)
    assert [value for _, value in distances(teacher, images)] == pytest.approx([value for _, value in whole], rel=1e-4)


def test_every_run_of_a_layer_is_listed_in_execution_order(teacher: Teacher) -> None:
    assert [name for name, _ in distances(teacher, torch.randn(2, *SHAPE))] == ["bn1", "bn2"]

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.norm(self.norm(images) + 1).mean((2, 3)))
            return logits

    twice = Twice().eval()
    found = distances(Teacher(twice, read_facts(twice, SHAPE)), torch.randn(64, *SHAPE))
    assert [name for name, _ in found] == ["norm", "norm"]
    assert found[0][1] < 0.1
    assert found[1][1] > 0.9


def test_noise_is_compared_with_the_synthetic_images_and_real_ones_where_there_are_any(teacher: Teacher) -> None:
    images = torch.randn(4, *SHAPE) * 5
    without = match_batchnorm(teacher, synthetic(images))
    assert [row.layer for row in without] == ["bn1", "bn2"]
    assert all(row.noise < row.synthetic and row.real is None for row in without)
    evidence = LabelledImages(images, None, "folder:photos")
    assert match_batchnorm(teacher, synthetic(images), replace(evidence, is_real=False)) == without
    assert all(row.real == row.synthetic for row in match_batchnorm(teacher, synthetic(images), evidence))


def test_at_most_64_images_of_each_kind_are_run(teacher: Teacher) -> None:
    seen: list[int] = []
    teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    match_batchnorm(teacher, synthetic(torch.randn(100, *SHAPE)))
    assert sum(seen) == 2 * 64


def test_network_is_left_as_it_was_and_one_without_batchnorm_has_nothing_to_match(teacher: Teacher) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    match_batchnorm(teacher, synthetic(torch.randn(4, *SHAPE)))
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in teacher.network.modules())
    bare = Teacher(teacher.network, replace(teacher.facts, batchnorm_layers=()))
    assert match_batchnorm(bare, synthetic(torch.randn(4, *SHAPE))) == ()


def test_rows_are_plain_numbers(teacher: Teacher) -> None:
    (row, _) = match_batchnorm(teacher, synthetic(torch.randn(2, *SHAPE)))
    assert isinstance(row, LayerMatch)
    assert isinstance(row.noise, float)
