from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.providers.zeroq import ZeroQ
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.descent import PixelBatch
from dfq_plugin.synthesis.losses import input_statistics, zeroq_loss
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, generate

SHAPE = (3, 8, 8)
FAST = ZeroQ(steps=30, learning_rate=0.1, batch_size=2)  # 5 images: 2 + 2 + 1


def loss_of(images: Tensor) -> float:
    teacher = tiny_teacher()
    with torch.no_grad(), tap_batchnorm(teacher, read_facts(teacher, SHAPE), per_image=True) as seen:
        teacher(images)
        return zeroq_loss([*seen, input_statistics(images)]).item()


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    assert tuple(generate(FAST, shape=shape, num_samples=3).images.shape) == (3, *shape)


def test_it_is_registered() -> None:
    assert get_provider("zeroq") is ZeroQ


@pytest.mark.parametrize("initial", ["released", "gaussian"])
def test_generate_lowers_the_loss_it_minimises(initial: Literal["released", "gaussian"]) -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, SHAPE)

    def after(steps: int) -> float:
        provider = ZeroQ(steps=steps, learning_rate=0.1, initial_images=initial)
        return loss_of(provider(teacher, facts, GenerationRequest(4, 0)).images)

    assert after(60) < 0.3 * after(1)


def test_first_loss_is_that_of_the_first_images(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    with frozen(teacher):
        request = GenerationRequest(2, 7, checkpoint_folder=tmp_path)
        FAST.generate(teacher, read_facts(teacher, SHAPE), request)
    stored = BatchStore(tmp_path).load(0)
    assert stored is not None
    first = (torch.randint(255, (2, *SHAPE), generator=batch_generator(7, 0)) - 127.5) / 5418.75
    assert (stored["loss.batchnorm"][0] + stored["loss.input"][0]).item() == pytest.approx(loss_of(first), rel=1e-5)


def test_images_have_no_labels() -> None:
    teacher = tiny_teacher()
    found = FAST(teacher, read_facts(teacher, SHAPE), GenerationRequest(2, 0))
    assert found.labels is None
    assert found.soft_labels is None


@pytest.mark.parametrize(
    ("initial", "lowest", "highest"),
    [("released", 73.6 / 5418.75 - 1e-3, 73.6 / 5418.75 + 1e-3), ("gaussian", 0.9, 1.1)],
)
def test_first_images_have_the_stated_deviation(
    initial: Literal["released", "gaussian"], lowest: float, highest: float
) -> None:
    facts = read_facts(tiny_teacher(), (3, 32, 32))
    images = ZeroQ(initial_images=initial)._draw(PixelBatch(0, 4, torch.Generator().manual_seed(0)), facts)
    assert lowest < images.std().item() < highest
    assert abs(images.mean().item()) < 0.1 * highest
    if initial == "released":
        assert images.abs().max().item() == pytest.approx(127.5 / 5418.75)


class Interleaved(nn.Module):
    """Defines its convolutions and BatchNorm layers in an order that cannot be paired."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_of_second = nn.BatchNorm2d(4)
        self.norm_of_first = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(3, 6, kernel_size=3)
        self.second = nn.Conv2d(6, 4, kernel_size=3)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm_of_first(self.first(images)).relu()
        logits: Tensor = self.head(self.norm_of_second(self.second(hidden)).relu().mean(dim=(2, 3)))
        return logits


def test_layers_are_paired_by_where_they_run_not_by_definition() -> None:
    teacher = Interleaved().eval()  # pairing by definition would compare 6 channels with 4
    found = ZeroQ(steps=2)(teacher, read_facts(teacher, SHAPE), GenerationRequest(2, 0))
    assert len(found) == 2


def test_a_layer_on_one_value_per_image_leaves_the_loss_finite() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, kernel_size=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).eval()
    found = ZeroQ(steps=5)(teacher, read_facts(teacher, SHAPE), GenerationRequest(3, 0))
    assert found.images.isfinite().all()
