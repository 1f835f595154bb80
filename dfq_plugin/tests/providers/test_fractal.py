from __future__ import annotations

from dataclasses import replace

import pydantic
import pytest
import torch
from torch import nn

from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.fractals import draw_fractal_image
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, generate


class TestContract(ProviderContract):
    provider = Fractal()


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    found = generate(Fractal(), shape=shape, num_samples=3)
    assert tuple(found.images.shape) == (3, *shape)
    assert found.labels is None


def test_it_is_registered() -> None:
    assert get_provider("fractal") is Fractal


def test_a_network_without_batchnorm_will_do() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    facts = read_facts(teacher, (1, 8, 8))
    assert not facts.batchnorm_layers
    assert len(Fractal()(teacher, facts, GenerationRequest(2, 0))) == 2


def test_pixels_are_normalised_as_the_teacher_expects_them() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8), mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    images = Fractal()(teacher, facts, GenerationRequest(3, 5)).images
    plain = draw_fractal_image((3, 8, 8), max_fractals=3, points_per_pixel=8, generator=batch_generator(5, 2))
    expected = (plain - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(images[2], expected)
    unknown = Fractal()(teacher, replace(facts, mean=None, std=None), GenerationRequest(3, 5)).images
    torch.testing.assert_close(unknown[2], (plain - 0.5) / 0.25)


def test_images_of_a_smaller_request_come_first_in_a_larger_one() -> None:
    assert torch.equal(generate(Fractal(), num_samples=2).images, generate(Fractal(), num_samples=6).images[:2])


def test_pixels_of_many_images_resemble_photographs() -> None:
    images = generate(Fractal(), shape=(3, 32, 32), num_samples=60, normalised=True).images
    assert images.mean().item() == pytest.approx(0.0, abs=0.4)
    assert images.std().item() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("field", ["max_fractals", "points_per_pixel"])
def test_settings_below_1_are_refused(field: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        Fractal(**{field: 0})
