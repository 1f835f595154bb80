"""Input shapes that every method has to cope with, and a run on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.providers.base import GenerationRequest, Provider, frozen
from dfq_plugin.synthesis.pixel_provider import BatchNormProvider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

Shape = tuple[int, int, int]

EVERY_SHAPE = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 8, 14), (2, 15, 9)])


def generate(
    provider: Provider, *, shape: Shape = (3, 8, 8), num_samples: int = 8, seed: int = 0, normalised: bool = False
) -> SyntheticSet:
    """Run a provider on a small teacher for images of this shape."""
    teacher = tiny_teacher(channels=shape[0])
    mean, std = ([0.5] * shape[0], [0.25] * shape[0]) if normalised else (None, None)
    return provider(teacher, read_facts(teacher, shape, mean=mean, std=std), GenerationRequest(num_samples, seed))


def batches_of(provider: BatchNormProvider, folder: Path, num_samples: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Run the method alone and read what it kept of each batch: images, labels and every term of the loss."""
    teacher = tiny_teacher()
    with frozen(teacher):
        provider.generate(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(num_samples, seed, folder))
    kept = [BatchStore(folder).load(index) for index in range(-(-num_samples // provider.batch_size))]
    return [batch for batch in kept if batch is not None]
