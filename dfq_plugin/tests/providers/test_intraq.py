from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydantic
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.augment import Crops, crop_and_resize
from dfq_plugin.batch_store import BatchStore
from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.providers import intraq
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.intraq import IntraQ, soft_targets
from dfq_plugin.providers.registry import build_provider, get_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape
from dfq_plugin.tests.providers.shapes import generate as generate_shape

SHAPE = (3, 8, 8)
FAST = IntraQ(steps=20, learning_rate=0.1, batch_size=2)  # 5 images: 2 + 2 + 1


def generate(provider: IntraQ, num_samples: int = 8, seed: int = 0) -> SyntheticSet:
    teacher = tiny_teacher()
    return provider(teacher, read_facts(teacher, SHAPE), GenerationRequest(num_samples, seed))


def batches_of(provider: IntraQ, folder: Path, num_samples: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Run the method alone and read what it kept of each batch: images, labels and every term of the loss."""
    teacher = tiny_teacher()
    with frozen(teacher):
        provider.generate(teacher, read_facts(teacher, SHAPE), GenerationRequest(num_samples, seed, folder))
    kept = [BatchStore(folder).load(index) for index in range(-(-num_samples // provider.batch_size))]
    return [batch for batch in kept if batch is not None]


def batchnorm_loss_of(images: Tensor) -> float:
    teacher = tiny_teacher()
    with torch.no_grad(), tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
        teacher(images)
        return batchnorm_loss(seen).item()


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True


class TestContractWithTurnedCrops(ProviderContract):
    provider = IntraQ(steps=4, batch_size=2, rotation=15.0, augment_probability=1.0)
    keeps_batches = True


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    provider = IntraQ(steps=3, batch_size=2, rotation=15.0, augment_probability=1.0)
    assert tuple(generate_shape(provider, shape=shape, num_samples=3).images.shape) == (3, *shape)


class TestContractWithEveryPartOff(ProviderContract):
    provider = IntraQ(steps=3, batch_size=2, use_lor=False, use_mdc=False, use_soft_inception=False)
    keeps_batches = True


class TestSettings:
    @pytest.mark.parametrize(
        ("preset", "expected"),
        [
            ("paper", (0.9, 0.3, 0.8, 0.5)),
            ("released_imagenet", (1.0, 0.0, 2.0, 0.5)),
            ("cifar10", (0.95, 0.05, 0.8, 0.5)),
            ("cifar100", (0.6, 0.02, 1.0, 0.5)),
        ],
    )
    def test_preset_gives_the_published_values(self, preset: str, expected: tuple[float, ...]) -> None:
        provider = IntraQ(preset=preset)
        assert (provider.eps, provider.lambda_l, provider.lambda_u, provider.eta) == expected

    def test_paper_is_the_preset_when_none_is_named(self) -> None:
        assert IntraQ() == IntraQ(preset="paper")

    def test_explicit_values_win_over_the_preset_and_null_does_not(self) -> None:
        provider = IntraQ(preset="cifar10", eps=0.5, eta=None)
        assert (provider.eps, provider.lambda_l, provider.lambda_u, provider.eta) == (0.5, 0.05, 0.8, 0.5)

    def test_zero_is_a_value_not_a_gap(self) -> None:
        assert IntraQ(lambda_l=0.0).lambda_l == 0.0

    def test_margins_that_cross_are_refused(self) -> None:
        with pytest.raises(pydantic.ValidationError, match=r"lambda_l \(0.9\) is above lambda_u \(0.8\)"):
            IntraQ(lambda_l=0.9)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("eps", 1.1),
            ("lambda_l", -0.1),
            ("lambda_u", 2.1),
            ("eta", 0.0),
            ("augment_probability", 1.5),
            ("rotation", 181.0),
        ],
    )
    def test_values_out_of_bounds_are_refused(self, field: str, value: float) -> None:
        with pytest.raises(ConfigError, match=f"/calibration/params/{field}"):
            build_provider("intraq", {field: value})

    @pytest.mark.parametrize("preset", ["imagenet", ["paper"]])
    def test_unknown_preset_is_the_only_complaint(self, preset: object) -> None:
        with pytest.raises(pydantic.ValidationError, match="preset") as caught:
            IntraQ(preset=preset)
        assert [error["loc"] for error in caught.value.errors()] == [("preset",)]

    def test_the_paper_preset_says_that_it_is_not_verified(self) -> None:
        assert "not verified" in str(IntraQ.model_fields["eps"].json_schema_extra)

    def test_it_is_registered(self) -> None:
        assert get_provider("intraq") is IntraQ


class TestGenerate:
    def test_batchnorm_loss_falls(self) -> None:
        found = generate(IntraQ(steps=60, learning_rate=0.1))
        noise = torch.randn(8, *SHAPE, generator=batch_generator(0, 0))
        assert batchnorm_loss_of(found.images) < 0.3 * batchnorm_loss_of(noise)

    def test_teacher_recognises_the_labels(self) -> None:
        found = generate(IntraQ(steps=80, learning_rate=0.1, use_lor=False), num_samples=16)
        assert found.labels is not None
        assert (tiny_teacher()(found.images).argmax(dim=1) == found.labels).float().mean().item() > 0.8

    def test_labels_are_random_over_all_classes(self) -> None:
        labels = generate(IntraQ(steps=1, batch_size=64), num_samples=64).labels
        assert labels is not None
        assert labels.unique().tolist() == [0, 1, 2, 3]

    def test_images_have_no_labels_without_soft_inception(self) -> None:
        assert generate(IntraQ(steps=1, use_soft_inception=False)).labels is None

    def test_terms_at_the_first_step_are_those_of_the_first_images(self, tmp_path: Path) -> None:
        (batch,) = batches_of(IntraQ(steps=1, eps=1.0, use_lor=False), tmp_path, num_samples=8, seed=3)
        random = batch_generator(3, 0)
        noise, labels = torch.randn(8, *SHAPE, generator=random), torch.randint(4, (8,), generator=random)
        assert torch.equal(batch["labels"], labels)
        assert batch["loss.batchnorm"].item() == pytest.approx(batchnorm_loss_of(noise), rel=1e-4)
        own = tiny_teacher()(noise).softmax(dim=1)[torch.arange(8), labels]
        assert batch["loss.soft_inception"].item() == pytest.approx((own - 1).square().mean().item(), rel=1e-4)

    @pytest.mark.parametrize(
        ("switch", "term"), [("use_mdc", "loss.marginal_distance"), ("use_soft_inception", "loss.soft_inception")]
    )
    def test_a_part_that_is_switched_off_is_not_in_the_loss(self, tmp_path: Path, switch: str, term: str) -> None:
        on = batches_of(IntraQ(steps=1, batch_size=2), tmp_path / "on", num_samples=4)[1]
        off = batches_of(IntraQ(steps=1, batch_size=2, **{switch: False}), tmp_path / "off", num_samples=4)[1]
        assert on.keys() - off.keys() == {term}


class TestMarginalDistance:
    def test_centres_are_those_of_the_finished_images_before(self, tmp_path: Path) -> None:
        provider = IntraQ(steps=1, batch_size=8, use_lor=False, lambda_l=0.6, lambda_u=0.9)
        first, second, third = batches_of(provider, tmp_path, num_samples=24)
        assert "loss.marginal_distance" not in first
        teacher = tiny_teacher()
        body = nn.Sequential(*list(teacher.children())[:-1])
        earlier = torch.cat([first["images"], second["images"]])
        features, classes = body(earlier), torch.cat([first["labels"], second["labels"]])
        noise = torch.randn(8, *SHAPE, generator=batch_generator(0, 2))
        expected = []
        for feature, label in zip(body(noise), third["labels"], strict=True):
            if (classes == label).any():
                centre = features[classes == label].mean(dim=0)
                distance = 1 - F.cosine_similarity(feature, centre, dim=0)
                expected.append((0.6 - distance).relu() + (distance - 0.9).relu())
        assert len(expected) > 0
        found = third["loss.marginal_distance"].item()
        assert found == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)

    def test_a_resumed_run_knows_the_centres_of_all_batches_read_back(self, tmp_path: Path) -> None:
        provider = IntraQ(steps=5, batch_size=2, lambda_l=0.9, lambda_u=0.9)
        unbroken = batches_of(provider, tmp_path, num_samples=8)
        (tmp_path / "batch_000003.safetensors").unlink()
        resumed = batches_of(provider, tmp_path, num_samples=8)
        assert torch.equal(resumed[3]["loss.marginal_distance"], unbroken[3]["loss.marginal_distance"])
        assert torch.equal(resumed[3]["images"], unbroken[3]["images"])

    def test_it_moves_images_away_from_the_centre_of_their_class(self) -> None:
        def distance(lambda_l: float) -> float:
            settings = {"lambda_l": lambda_l, "lambda_u": 2.0, "use_lor": False, "learning_rate": 0.1}
            found = generate(IntraQ(steps=40, batch_size=8, **settings), num_samples=16)
            features = nn.Sequential(*list(tiny_teacher().children())[:-1])(found.images)
            assert found.labels is not None
            distances = [
                1
                - F.cosine_similarity(features[i], features[:8][found.labels[:8] == found.labels[i]].mean(dim=0), dim=0)
                for i in range(8, 16)
                if (found.labels[:8] == found.labels[i]).any()
            ]
            return torch.stack(distances).mean().item()

        assert distance(0.5) > distance(0.0) + 0.1

    def test_teacher_without_classifier_is_refused_unless_switched_off(self) -> None:
        facts = replace(read_facts(tiny_teacher(), SHAPE), classifier=None)
        with pytest.raises(UnsupportedModelError, match="set use_mdc to false"):
            IntraQ().requires(facts)
        provider = IntraQ(use_mdc=False, steps=1)
        assert len(provider(tiny_teacher(), facts, GenerationRequest(2, 0))) == 2


class TestLocalObjectReinforcement:
    @staticmethod
    def crops_of(provider: IntraQ, monkeypatch: pytest.MonkeyPatch) -> list[Crops]:
        seen: list[Crops] = []

        def spy(images: Tensor, crops: Crops) -> Tensor:
            seen.append(crops)
            return crop_and_resize(images, crops)

        monkeypatch.setattr(intraq, "crop_and_resize", spy)
        generate(provider)
        return seen

    @pytest.mark.parametrize(("probability", "lowest", "highest"), [(0.0, 0, 0), (0.5, 10, 30), (1.0, 40, 40)])
    def test_steps_see_crops_with_the_given_probability(
        self, monkeypatch: pytest.MonkeyPatch, probability: float, lowest: int, highest: int
    ) -> None:
        seen = self.crops_of(IntraQ(steps=40, augment_probability=probability), monkeypatch)
        assert lowest <= len(seen) <= highest

    def test_no_step_sees_crops_when_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not self.crops_of(IntraQ(steps=10, augment_probability=1.0, use_lor=False), monkeypatch)

    def test_gradient_passes_through_the_crops(self, tmp_path: Path) -> None:
        provider = IntraQ(steps=60, learning_rate=0.1, augment_probability=1.0)
        (batch,) = batches_of(provider, tmp_path, num_samples=8)
        seen = batch["loss.batchnorm"]
        assert seen[-10:].mean() < 0.3 * seen[:3].mean()

    def test_crops_lie_channels_last_on_the_cpu(self) -> None:
        teacher, layouts = tiny_teacher(), []
        facts = read_facts(teacher, SHAPE)

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad:
                layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

        teacher.register_forward_pre_hook(look)
        IntraQ(steps=4, augment_probability=1.0)(teacher, facts, GenerationRequest(4, 0))
        assert layouts == [True] * 4

    def test_every_step_draws_anew_for_every_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.crops_of(IntraQ(steps=10, augment_probability=1.0), monkeypatch)
        assert len({tuple(crops.left.tolist() + crops.width.tolist()) for crops in seen}) == 10
        assert any(len(set(crops.width.tolist())) > 1 for crops in seen)

    def test_crops_cover_at_least_eta_of_the_area(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.crops_of(IntraQ(steps=20, augment_probability=1.0, eta=0.8), monkeypatch)
        assert min(int((crops.height * crops.width).min()) for crops in seen) >= 0.7 * 64

    @pytest.mark.parametrize(("use_flip", "expected"), [(True, {True, False}), (False, {False})])
    def test_crops_are_mirrored_only_with_use_flip(
        self, monkeypatch: pytest.MonkeyPatch, use_flip: bool, expected: set[bool]
    ) -> None:
        seen = self.crops_of(IntraQ(steps=10, augment_probability=1.0, use_flip=use_flip), monkeypatch)
        assert {flag for crops in seen for flag in crops.mirrored.tolist()} == expected

    def test_crops_are_turned_up_to_the_given_angle_and_only_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert all(
            crops.angle is None for crops in self.crops_of(IntraQ(steps=5, augment_probability=1.0), monkeypatch)
        )
        seen = self.crops_of(IntraQ(steps=20, augment_probability=1.0, rotation=30.0), monkeypatch)
        angles = torch.cat([crops.angle for crops in seen if crops.angle is not None]).rad2deg()
        assert len(angles) == 20 * 8
        assert 25 < angles.abs().max().item() <= 30


class TestSoftTargets:
    def test_half_are_1_and_the_rest_uniform_above_the_lowest(self) -> None:
        targets = soft_targets(4000, 0.6, torch.Generator().manual_seed(0))
        soft = targets[targets < 1]
        assert len(soft) == pytest.approx(2000, abs=150)
        assert 0.6 <= soft.min().item() < 0.61
        assert soft.mean().item() == pytest.approx(0.8, abs=0.01)

    def test_all_are_1_when_the_lowest_is_1(self) -> None:
        assert (soft_targets(100, 1.0, torch.Generator().manual_seed(0)) == 1).all()
