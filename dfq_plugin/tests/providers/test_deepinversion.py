from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers import deepinversion
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.deepinversion import DeepInversion
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.inversion_losses import (
    batchnorm_norm_loss,
    competition_loss,
    image_norm,
    total_variation_mean,
    total_variation_norm,
)
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.synthesis.quick_student import quick_student
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, batches_of, generate

SHAPE = (3, 8, 8)
STILL: dict[str, Any] = {"low_resolution_share": 0.0, "jitter": 0.0, "use_flip": False}  # sees the pixels themselves


class TestContract(ProviderContract):
    provider = DeepInversion(steps=6, batch_size=2)
    keeps_batches = True


class TestContractOfCifarPreset(ProviderContract):
    provider = DeepInversion(preset="cifar10", steps=4, batch_size=2)
    keeps_batches = True


class TestContractWithCompetition(ProviderContract):
    provider = DeepInversion(steps=6, batch_size=2, competition=0.2)
    keeps_batches = True


@EVERY_SHAPE
@pytest.mark.parametrize("competition", [0.0, 0.2])
def test_images_of_every_shape_can_be_made(shape: Shape, competition: float) -> None:
    found = generate(DeepInversion(steps=3, batch_size=2, competition=competition), shape=shape, num_samples=3)
    assert tuple(found.images.shape) == (3, *shape)


def test_it_is_registered() -> None:
    assert get_provider("deepinversion") is DeepInversion


class TestSettings:
    def test_presets_give_the_published_values(self) -> None:
        imagenet, cifar = DeepInversion(), DeepInversion(preset="cifar10")
        assert (imagenet.steps, imagenet.low_steps, imagenet.batch_size, imagenet.learning_rate) == (
            3000,
            2000,
            84,
            0.25,
        )
        assert (imagenet.batchnorm_weight, imagenet.total_variation_weight, imagenet.norm_weight) == (0.01, 1e-4, 1e-5)
        assert (round(imagenet.jitter * 224), imagenet.use_flip, imagenet.use_clip) == (30, True, True)
        assert (imagenet.betas, imagenet.schedule, imagenet.keep) == ((0.5, 0.9), "cosine", "best")
        assert (cifar.steps, cifar.low_steps, cifar.batch_size, cifar.learning_rate) == (2000, 0, 256, 0.05)
        assert (cifar.batchnorm_weight, cifar.total_variation_weight, cifar.norm_weight) == (10.0, 2.5e-5, 0.0)
        assert (round(cifar.jitter * 32), cifar.use_flip, cifar.use_clip) == (2, False, False)
        assert (cifar.schedule, cifar.keep) == ("constant", "last")
        assert imagenet.competition == cifar.competition == 0.0

    def test_explicit_values_win_over_the_preset(self) -> None:
        assert DeepInversion(preset="cifar10", steps=7, norm_weight=0.5).norm_weight == 0.5

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("steps", 0),
            ("low_resolution_share", 1.0),
            ("betas", (0.9, 1.0)),
            ("batchnorm_weight", 0.0),
            ("jitter", 0.6),
            ("student_bits", 1),
            ("competition_start", 1.0),
        ],
    )
    def test_values_out_of_bounds_are_refused(self, field: str, value: object) -> None:
        with pytest.raises(pydantic.ValidationError, match=field):
            DeepInversion(**{field: value})

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            pytest.param({}, 66, id="after_the_half_size_stage"),
            pytest.param({"low_resolution_share": 0.0}, 0, id="from_the_start"),
            pytest.param({"competition": 0.2, "competition_start": 0.8}, 80, id="after_the_competition_began"),
            pytest.param({"competition": 0.2, "competition_start": 0.1}, 66, id="both"),
            pytest.param({"keep": "last"}, None, id="not_at_all"),
        ],
    )
    def test_the_best_image_is_looked_for_where_the_loss_is_whole(
        self, settings: dict[str, Any], expected: int | None
    ) -> None:
        provider = DeepInversion(steps=100, **{"low_resolution_share": 0.66, **settings})
        assert provider.pixel_settings(read_facts(tiny_teacher(), SHAPE)).keep_best_from == expected


class TestGenerate:
    def test_teacher_recognises_the_balanced_labels(self) -> None:
        found = generate(DeepInversion(steps=80, batch_size=6, low_resolution_share=0.3), num_samples=8)
        assert found.labels is not None
        assert torch.bincount(found.labels).tolist() == [2, 2, 2, 2]
        assert (tiny_teacher()(found.images).argmax(dim=1) == found.labels).float().mean().item() > 0.8

    def test_batchnorm_loss_falls(self, tmp_path: Path) -> None:
        provider = DeepInversion(steps=60, batch_size=8, batchnorm_weight=1.0, **STILL)
        (batch,) = batches_of(provider, tmp_path, num_samples=8)
        assert batch["loss.batchnorm"].min() < 0.3 * batch["loss.batchnorm"][0]

    def test_terms_at_the_first_step_are_the_weighted_losses_of_the_first_images(self, tmp_path: Path) -> None:
        weights = {
            "classification_weight": 2.0,
            "batchnorm_weight": 3.0,
            "total_variation_weight": 5.0,
            "absolute_variation_weight": 7.0,
            "norm_weight": 11.0,
        }
        (batch,) = batches_of(DeepInversion(steps=1, **STILL, **weights), tmp_path, num_samples=8, seed=3)
        noise, labels = torch.randn(8, *SHAPE, generator=batch_generator(3, 0)), balanced_labels(4, 0, 8, 3)
        assert torch.equal(batch["labels"], labels)
        teacher = tiny_teacher()
        with tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
            logits = teacher(noise)
            batchnorm = batchnorm_norm_loss(seen, 10.0)
        expected = {
            "classification": 2 * F.cross_entropy(logits, labels),
            "batchnorm": 3 * batchnorm,
            "total_variation": 5 * total_variation_norm(noise),
            "absolute_variation": 7 * total_variation_mean(noise),
            "norm": 11 * image_norm(noise),
        }
        assert {name for name in batch if name.startswith("loss.")} == {f"loss.{name}" for name in expected}
        for name, value in expected.items():
            assert batch[f"loss.{name}"].item() == pytest.approx(value.item(), rel=1e-4), name

    def test_images_have_no_labels_without_classification(self) -> None:
        assert generate(DeepInversion(steps=1, classification_weight=0.0)).labels is None

    @pytest.mark.parametrize(
        ("use_clip", "normalised", "clipped"), [(True, True, True), (False, True, False), (True, False, False)]
    )
    def test_pixels_stay_within_real_ones_if_these_are_known(
        self, use_clip: bool, normalised: bool, clipped: bool
    ) -> None:
        provider = DeepInversion(steps=3, use_clip=use_clip, keep="last")
        largest = generate(provider, normalised=normalised).images.abs().max().item()
        assert (largest <= 2.0) is clipped  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25

    def test_clipping_goes_by_channel(self) -> None:
        teacher = tiny_teacher()
        facts = read_facts(teacher, SHAPE, mean=[0.5, 0.25, 0.0], std=[0.25, 0.25, 0.5])
        images = DeepInversion(steps=3, keep="last", learning_rate=1.0)(teacher, facts, GenerationRequest(16, 0)).images
        assert images.amin(dim=(0, 2, 3)).tolist() == pytest.approx([-2.0, -1.0, 0.0])
        assert images.amax(dim=(0, 2, 3)).tolist() == pytest.approx([2.0, 3.0, 2.0])


class TestHalfSize:
    @staticmethod
    def sizes_seen(provider: DeepInversion) -> list[int]:
        teacher, sizes = tiny_teacher(), []
        facts = read_facts(teacher, SHAPE)

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad:  # not when the provider only tries whether the network can
                sizes.append(inputs[0].shape[-1])

        teacher.register_forward_pre_hook(look)
        provider(teacher, facts, GenerationRequest(2, 0))
        return sizes

    def test_the_first_steps_see_half_the_size(self) -> None:
        assert self.sizes_seen(DeepInversion(steps=9)) == [4] * 6 + [8] * 3

    def test_no_step_does_when_switched_off(self) -> None:
        assert self.sizes_seen(DeepInversion(steps=4, low_resolution_share=0.0)) == [8] * 4

    def test_a_teacher_that_takes_one_size_only_is_refused_with_the_way_out(self) -> None:
        teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
        facts = read_facts(teacher, SHAPE)
        with pytest.raises(UnsupportedModelError, match=r"refuses \(3, 4, 4\).*Set low_resolution_share to 0"):
            DeepInversion(steps=3)(teacher, facts, GenerationRequest(2, 0))
        provider = DeepInversion(steps=3, low_resolution_share=0.0)
        assert len(provider(teacher, facts, GenerationRequest(2, 0))) == 2


class TestCompetition:
    def test_student_competes_from_its_step_on(self, tmp_path: Path) -> None:
        provider = DeepInversion(steps=10, competition=0.5, competition_start=0.3, **STILL)
        (batch,) = batches_of(provider, tmp_path, num_samples=4)
        terms = batch["loss.competition"]
        assert terms[:3].tolist() == [0.0] * 3
        assert (terms[3:] > 0).all()

    def test_term_is_that_of_a_student_calibrated_on_the_images_so_far(self, tmp_path: Path) -> None:
        provider = DeepInversion(steps=1, competition=0.5, competition_start=0.0, student_bits=3, **STILL)
        (batch,) = batches_of(provider, tmp_path, num_samples=8)
        noise, teacher = torch.randn(8, *SHAPE, generator=batch_generator(0, 0)), tiny_teacher()
        student = quick_student(teacher, read_facts(teacher, SHAPE), 3, noise)
        with torch.no_grad():
            expected = 0.5 * competition_loss(student(noise), teacher(noise), 3.0).item()
        assert expected < 0.5
        assert batch["loss.competition"].item() == pytest.approx(expected, rel=1e-4)

    def test_images_are_pushed_to_where_the_student_fails(self) -> None:
        settings: dict[str, Any] = {**STILL, "steps": 60, "batch_size": 8, "keep": "last", "student_bits": 2}
        agreement = {}
        for weight in (0.0, 20.0):
            images = generate(DeepInversion(competition=weight, competition_start=0.1, **settings)).images
            teacher = tiny_teacher()
            student = quick_student(teacher, read_facts(teacher, SHAPE), 2, images)
            with torch.no_grad():
                agreement[weight] = competition_loss(student(images), teacher(images), 3.0).item()
        assert agreement[20.0] < agreement[0.0] - 0.02

    def test_the_student_has_none_of_the_taps_on_the_teacher(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hooks: list[int] = []

        def spy(network: nn.Module, *arguments: Any) -> nn.Module:
            hooks.append(sum(len(module._forward_pre_hooks) for module in network.modules()))
            return quick_student(network, *arguments)

        monkeypatch.setattr(deepinversion, "quick_student", spy)
        generate(DeepInversion(steps=4, batch_size=4, competition=0.2))
        assert hooks == [0, 0]  # one student a batch


def test_views_are_shifted_and_mirrored_by_batch() -> None:
    teacher, seen = tiny_teacher(), []
    facts = read_facts(teacher, SHAPE)

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            seen.append(inputs[0].detach().clone())

    teacher.register_forward_pre_hook(look)
    settings: dict[str, Any] = {"low_resolution_share": 0.0, "learning_rate": 1e-6, "use_flip": True, "jitter": 0.25}
    DeepInversion(steps=20, **settings)(teacher, facts, GenerationRequest(2, 0))
    noise = torch.randn(2, *SHAPE, generator=batch_generator(0, 0))
    views = {
        (rows, columns, flip): (
            noise.roll((rows, columns), (2, 3)).flip(3) if flip else noise.roll((rows, columns), (2, 3))
        )
        for rows in range(-2, 3)
        for columns in range(-2, 3)
        for flip in (False, True)
    }
    found = [next(key for key, view in views.items() if torch.allclose(view, image, atol=1e-3)) for image in seen]
    assert len(set(found)) > 10
    assert {flip for *_, flip in found} == {False, True}


def test_best_loss_is_finite_and_kept(tmp_path: Path) -> None:
    (batch,) = batches_of(DeepInversion(steps=30, **STILL), tmp_path, num_samples=4)
    total = torch.stack([term for name, term in batch.items() if name.startswith("loss.")]).sum(dim=0)
    teacher = tiny_teacher()
    with torch.no_grad(), tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
        logits = teacher(batch["images"])
        value = F.cross_entropy(logits, batch["labels"]) + 0.01 * batchnorm_norm_loss(seen, 10.0)
    value = value + 1e-4 * total_variation_norm(batch["images"]) + 1e-5 * image_norm(batch["images"])
    assert math.isfinite(value.item())
    assert value.item() == pytest.approx(total.min().item(), rel=1e-4)
