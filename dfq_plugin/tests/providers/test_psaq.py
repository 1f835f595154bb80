from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.attention import watch_attention
from dfq_plugin.batch_store import BatchStore
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.network_state import frozen
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.psaq import PSAQ
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.patch_losses import patch_similarity_loss, total_variation_integral
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.attention_networks import STYLES, Style, tiny_transformer

SHAPE = (3, 8, 8)
FAST = PSAQ(steps=3, batch_size=2)  # 5 images: 2 + 2 + 1
TEACHER = tiny_transformer()
FACTS = read_facts(TEACHER, SHAPE)


def terms_of(images: Tensor, labels: Tensor, bandwidth: float) -> dict[str, float]:
    with torch.no_grad(), watch_attention() as seen:
        logits = TEACHER(images)
    return {
        "patch_similarity": patch_similarity_loss(seen, bandwidth).item(),
        "classification": F.cross_entropy(logits, labels).item(),
        "total_variation": 0.05 * total_variation_integral(images).item(),
    }


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True

    def make_teacher(self) -> tuple[nn.Module, ModelFacts]:
        teacher = tiny_transformer("module")
        return teacher, read_facts(teacher, SHAPE)


def test_it_is_registered() -> None:
    assert get_provider("psaq") is PSAQ


@pytest.mark.parametrize("style", STYLES)
def test_it_works_however_attention_is_written(style: Style) -> None:
    teacher = tiny_transformer(style)
    facts = read_facts(teacher, (3, 6, 10))
    assert facts.attention_operators == 2
    assert len(FAST(teacher, facts, GenerationRequest(3, 0))) == 3


def test_first_loss_is_that_of_the_first_images(tmp_path: Path) -> None:
    with frozen(TEACHER):
        FAST.generate(TEACHER, FACTS, GenerationRequest(2, 7, checkpoint_folder=tmp_path))
    stored = BatchStore(tmp_path).load(0)
    assert stored is not None
    first = torch.randn((2, *SHAPE), generator=batch_generator(7, 0))
    labels = balanced_labels(4, 0, 2, 7)
    assert torch.equal(stored["labels"], labels)
    for name, expected in terms_of(first, labels, FAST.bandwidth).items():
        assert stored[f"loss.{name}"][0].item() == pytest.approx(expected, rel=1e-5), name


def test_optimising_makes_patches_differ_and_classes_recognised() -> None:
    found = [PSAQ(steps=steps)(TEACHER, FACTS, GenerationRequest(4, 0)) for steps in (1, 25)]
    assert found[0].labels is not None
    before, after = (terms_of(each.images, found[0].labels, 0.05) for each in found)
    assert after["classification"] < 0.9 * before["classification"]
    assert after["patch_similarity"] < before["patch_similarity"] - 0.3


def test_total_variation_makes_images_smoother() -> None:
    rough, smooth = (
        PSAQ(steps=20, total_variation_weight=weight)(TEACHER, FACTS, GenerationRequest(4, 0)).images
        for weight in (0.0, 5.0)
    )
    assert total_variation_integral(smooth) < 0.5 * total_variation_integral(rough)


def test_images_have_balanced_labels() -> None:
    labels = FAST(TEACHER, FACTS, GenerationRequest(8, 0)).labels
    assert labels is not None
    assert labels.bincount().tolist() == [2, 2, 2, 2]


def test_terms_that_weigh_nothing_are_left_out() -> None:
    alone = PSAQ(steps=2, classification_weight=0, total_variation_weight=0)
    found = alone(TEACHER, FACTS, GenerationRequest(2, 0))
    assert found.labels is None
    assert set(found.provenance.details["curves"]["values"]) == {"patch_similarity"}


def test_network_without_classes_is_served_without_labels() -> None:
    teacher = nn.Sequential(nn.Identity(), tiny_transformer(), nn.Unflatten(1, (2, 2)))
    found = FAST(teacher, read_facts(teacher, SHAPE), GenerationRequest(2, 0))
    assert found.labels is None


def test_network_without_attention_is_refused_with_the_way_out() -> None:
    teacher = tiny_teacher()
    with pytest.raises(UnsupportedModelError, match=r"'psaq' compares the patches .* none was found .*'fractal'"):
        FAST(teacher, read_facts(teacher, SHAPE), GenerationRequest(2, 0))


@pytest.mark.parametrize("field", ["steps", "learning_rate", "batch_size", "bandwidth"])
def test_settings_out_of_bounds_are_refused(field: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        PSAQ(**{field: 0})
