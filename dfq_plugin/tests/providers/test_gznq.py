from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import torch
from torch.nn import functional as F

from dfq_plugin.providers.gznq import GZNQ
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, batches_of, generate

FAST = GZNQ(steps=10, learning_rate=0.1, batch_size=2)


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    assert tuple(generate(FAST, shape=shape, num_samples=3).images.shape) == (3, *shape)


def test_it_is_registered_as_a_public_description() -> None:
    assert get_provider("gznq") is GZNQ
    assert "public description only" in GZNQ.paper


def test_terms_at_the_first_step_are_the_weighted_losses_of_the_first_images(tmp_path: Path) -> None:
    provider = GZNQ(steps=1, classification_weight=2.0, batchnorm_weight=3.0)
    (batch,) = batches_of(provider, tmp_path, num_samples=8, seed=3)
    noise, labels = torch.randn(8, 3, 8, 8, generator=batch_generator(3, 0)), balanced_labels(4, 0, 8, 3)
    assert torch.equal(batch["labels"], labels)
    teacher = tiny_teacher()
    with torch.no_grad(), tap_batchnorm(teacher, read_facts(teacher, (3, 8, 8))) as seen:
        classification = F.cross_entropy(teacher(noise), labels).item()
        batchnorm = batchnorm_loss(seen).item()
    assert batch["loss.classification"].item() == pytest.approx(2 * classification, rel=1e-4)
    assert batch["loss.batchnorm"].item() == pytest.approx(3 * batchnorm, rel=1e-4)


def test_both_terms_fall_and_the_teacher_recognises_balanced_labels(tmp_path: Path) -> None:
    first, second = batches_of(GZNQ(steps=60, learning_rate=0.1, batch_size=6), tmp_path, num_samples=8)
    for name in ("loss.classification", "loss.batchnorm"):
        assert first[name][-1] < 0.3 * first[name][0]
    labels = torch.cat([first["labels"], second["labels"]])
    assert torch.bincount(labels).tolist() == [2, 2, 2, 2]
    answers = tiny_teacher()(torch.cat([first["images"], second["images"]])).argmax(dim=1)
    assert (answers == labels).float().mean().item() > 0.8


@pytest.mark.parametrize("field", ["classification_weight", "batchnorm_weight"])
def test_neither_weight_can_be_zero(field: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        GZNQ(**{field: 0.0})
