"""Noise with mean 0 and variance 1, from the seed alone."""

from __future__ import annotations

import pytest
import torch

from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.noise import Noise
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import ProviderContract, tiny_teacher


class TestGaussian(ProviderContract):
    provider = Noise()


class TestUniform(ProviderContract):
    provider = Noise(distribution="uniform")


@pytest.mark.parametrize(
    ("provider", "largest"),
    [pytest.param(Noise(), 4.5, id="gaussian"), pytest.param(Noise(distribution="uniform"), 3**0.5, id="uniform")],
)
def test_pixels_have_mean_0_and_variance_1(provider: Noise, largest: float) -> None:
    teacher = tiny_teacher()
    images = provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(500, seed=1)).images
    assert images.mean().item() == pytest.approx(0.0, abs=0.02)
    assert images.var().item() == pytest.approx(1.0, abs=0.02)
    assert images.abs().max().item() == pytest.approx(largest, rel=0.1)


def test_images_of_a_smaller_request_come_first_in_a_larger_one() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    few, many = (Noise()(teacher, facts, GenerationRequest(count, seed=1)).images for count in (2, 6))
    assert torch.equal(few, many[:2])
