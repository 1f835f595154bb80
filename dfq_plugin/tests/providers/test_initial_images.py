from __future__ import annotations

from typing import Any

import pytest
import torch

from dfq_plugin.providers.dead_leaves import DeadLeaves
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.initial_images import InitialImages, initial_images
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthesis.drawn_provider import DrawnProvider
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.providers.shapes import generate

SHAPE = (3, 8, 8)
STEP: dict[str, Any] = {"steps": 1, "learning_rate": 1e-4, "batch_size": 2, "initial_images": "dead_leaves"}
OWN: dict[str, dict[str, Any]] = {
    "deepinversion": {"low_resolution_share": 0.0, "keep": "last"},
    "gznq": {},
    "intraq": {},
    "zeroq": {},
}


def made(kind: InitialImages, *, normalised: bool = True) -> torch.Tensor:
    mean, std = ([0.5, 0.25, 0.0], [0.25, 0.5, 0.5]) if normalised else (None, None)
    facts = read_facts(tiny_teacher(), SHAPE, mean=mean, std=std)
    return initial_images(kind, 3, facts, torch.Generator().manual_seed(4))


def test_gaussian_is_noise_of_variance_one() -> None:
    assert torch.equal(made("gaussian"), torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(("kind", "drawing"), [("dead_leaves", DeadLeaves()), ("fractal", Fractal())])
def test_drawn_ones_are_those_of_the_provider_as_the_teacher_wants_its_input(
    kind: InitialImages, drawing: DrawnProvider
) -> None:
    generator = torch.Generator().manual_seed(4)
    pictures = torch.stack([drawing.draw(SHAPE, generator) for _ in range(3)])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ([0.5, 0.25, 0.0], [0.25, 0.5, 0.5]))
    assert torch.allclose(made(kind), (pictures - mean) / std)
    assert torch.allclose(made(kind, normalised=False), (pictures - 0.5) / 0.25)


@pytest.mark.parametrize("name", OWN)
def test_a_provider_starts_from_them(name: str) -> None:
    found = generate(build_provider(name, STEP | OWN[name]), num_samples=2, seed=5, normalised=True)
    facts = read_facts(tiny_teacher(), SHAPE, mean=[0.5] * 3, std=[0.25] * 3)
    start = initial_images("dead_leaves", 2, facts, batch_generator(5, 0))
    moved = (found.images - start).abs().max().item()
    assert 0 < moved < 2e-4  # a step of Adam
