from __future__ import annotations

import pydantic
import pytest
import torch

from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.dead_leaves import DeadLeaves
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.dead_leaves import draw_dead_leaves
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, generate


class TestContract(ProviderContract):
    provider = DeadLeaves()


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    found = generate(DeadLeaves(), shape=shape, num_samples=3)
    assert tuple(found.images.shape) == (3, *shape)
    assert found.labels is None


def test_it_is_registered() -> None:
    assert get_provider("dead_leaves") is DeadLeaves


def test_settings_reach_the_drawing_and_pixels_are_normalised() -> None:
    facts = read_facts(tiny_teacher(), (3, 8, 8), mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    images = DeadLeaves(max_leaves=5)(tiny_teacher(), facts, GenerationRequest(3, 5)).images
    plain = draw_dead_leaves((3, 8, 8), max_leaves=5, generator=batch_generator(5, 2))
    expected = (plain - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(images[2], expected)


def test_images_of_a_smaller_request_come_first_in_a_larger_one() -> None:
    assert torch.equal(generate(DeadLeaves(), num_samples=2).images, generate(DeadLeaves(), num_samples=6).images[:2])


def test_pixels_of_many_images_resemble_photographs() -> None:
    images = generate(DeadLeaves(), shape=(3, 32, 32), num_samples=60, normalised=True).images
    assert images.mean().item() == pytest.approx(0.0, abs=0.4)
    assert images.std().item() == pytest.approx(1.0, abs=0.3)


def test_fewer_leaves_than_the_fewest_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_leaves"):
        DeadLeaves(max_leaves=3)
