from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.providers import genie
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.genie import Genie
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.generators import initialised
from dfq_plugin.synthesis.latents import LatentGenerator, Latents
from dfq_plugin.synthesis.losses import deviation_loss, input_statistics, zeroq_loss
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, batches_of, generate

SHAPE = (3, 8, 8)
FAST = Genie(steps=4, batch_size=2, latent_size=8)


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True


class TestContractWithoutSwing(ProviderContract):
    provider = Genie(steps=3, batch_size=2, latent_size=8, use_swing=False)
    keeps_batches = True


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    found = generate(FAST, shape=shape, num_samples=3)
    assert tuple(found.images.shape) == (3, *shape)
    assert found.labels is None


def test_it_is_registered() -> None:
    assert get_provider("genie") is Genie


def test_defaults_are_the_published_ones() -> None:
    settings = Genie()
    assert (settings.steps, settings.batch_size, settings.latent_size, settings.use_swing) == (4000, 128, 256, True)
    assert (settings.learning_rate, settings.patience, settings.min_learning_rate) == (0.1, 100, 1e-4)
    assert (settings.generator_learning_rate, settings.generator_decay, settings.generator_decay_steps) == (
        0.01,
        0.95,
        100,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("latent_size", 0), ("generator_decay", 0.0), ("generator_decay_steps", 0), ("generator_learning_rate", 0.0)],
)
def test_values_out_of_bounds_are_refused(field: str, value: float) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        Genie(**{field: value})


def test_terms_at_the_first_step_are_those_of_the_first_images(tmp_path: Path) -> None:
    provider = Genie(steps=1, batch_size=8, latent_size=8, use_swing=False)
    (batch,) = batches_of(provider, tmp_path, num_samples=8, seed=3)
    random, teacher = batch_generator(3, 0), tiny_teacher()
    latents = torch.randn(8, 8, generator=random)
    images = initialised(lambda: LatentGenerator(SHAPE, 8), random)(latents)
    with torch.no_grad(), tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
        teacher(images)
        batchnorm = deviation_loss(seen).item()
    assert batch["loss.batchnorm"].item() == pytest.approx(batchnorm, rel=1e-4)
    assert batch["loss.input"].item() == pytest.approx(zeroq_loss([input_statistics(images)]).item(), rel=1e-4)


def test_both_terms_fall(tmp_path: Path) -> None:
    (batch,) = batches_of(Genie(steps=100, batch_size=8, latent_size=16), tmp_path, num_samples=8)
    assert batch["loss.batchnorm"][-10:].mean() < 0.5 * batch["loss.batchnorm"][0]
    assert batch["loss.batchnorm"][-10:].mean() + batch["loss.input"][-10:].mean() < 0.5 * (
        batch["loss.batchnorm"][0] + batch["loss.input"][0]
    )


def test_latents_and_generator_have_step_sizes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Latents] = []

    def spy(*arguments: object, **named: object) -> Latents:
        made.append(Latents(*arguments, **named))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(genie, "Latents", spy)
    generate(Genie(steps=5, generator_decay=0.5, generator_decay_steps=2, batch_size=4), num_samples=8)
    assert len(made) == 2  # a fresh generator for each batch
    assert made[0]._of_latents.param_groups[0]["lr"] == 0.1
    assert made[0]._of_network.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**2)
    assert not torch.equal(made[0]._network.linear.weight, made[1]._network.linear.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("use_swing", [True, False])
def test_strided_convolutions_are_shifted_only_with_swing(use_swing: bool) -> None:
    teacher, plain = tiny_teacher(), []
    convolution = teacher.conv2
    teacher.add_module("conv2", nn.Sequential(convolution))  # a hook on the wrapper sees the input before the shift

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        plain.append(torch.allclose(output, F.conv2d(inputs[0], convolution.weight, stride=2, padding=1), atol=1e-5))

    facts = read_facts(teacher, SHAPE)
    teacher.get_submodule("conv2").register_forward_hook(look)
    Genie(steps=8, latent_size=8, use_swing=use_swing)(teacher, facts, GenerationRequest(2, 0))
    assert all(plain) is not use_swing
