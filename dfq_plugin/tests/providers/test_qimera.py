"""Qimera: mixed embeddings against sums done by hand, its switches, and that it lowers what it minimises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.batches import Batch
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.qimera import Qimera, _Superposition, mix_labels, standardise
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics
from dfq_plugin.synthesis.generator_source import Seen
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract


class TestContract(ProviderContract):
    provider = Qimera(steps=6, steps_per_epoch=3, batch_size=2)
    keeps_batches = True


def make_method(num_classes: int = 4, **settings: Any) -> _Superposition:
    teacher = tiny_teacher(num_classes)
    method = Qimera(**settings).make_method(teacher, read_facts(teacher, (3, 8, 8)))
    assert isinstance(method, _Superposition)
    return method


def draw(method: _Superposition, count: int = 6, seed: int = 0) -> Batch:
    with torch.no_grad():
        return method.draw(count, torch.Generator().manual_seed(seed))


def test_it_is_registered_as_an_online_provider() -> None:
    assert get_provider("qimera") is Qimera
    assert Qimera.online


class TestMixing:
    def test_gives_each_label_its_weight_and_adds_equal_labels_up(self) -> None:
        found = mix_labels(torch.tensor([[0, 2], [1, 1]]), torch.tensor([[0.25, 0.75], [0.25, 0.75]]), 3)
        assert found.tolist() == [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]

    def test_standardises_a_single_embedding_over_its_own_values(self) -> None:
        found = standardise(torch.tensor([[[1.0, 3.0]], [[10.0, 30.0]]]))
        assert found.flatten().tolist() == pytest.approx([-1.0, 1.0, -1.0, 1.0], abs=1e-4)

    def test_standardises_several_for_each_place_over_images_and_values(self) -> None:
        embeddings = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[5.0, 7.0], [0.0, 4.0]]])
        found = standardise(embeddings)
        assert found[:, 0].flatten().tolist() == pytest.approx(
            [-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5], abs=1e-4
        )
        assert found[:, 1].flatten().tolist() == pytest.approx([-1 / 3**0.5] * 3 + [3**0.5], abs=1e-4)


class TestDraw:
    def test_of_one_class_has_hard_labels(self) -> None:
        soft = draw(make_method(superposed_probability=0.0)).soft_labels
        assert soft is not None
        assert soft.max(dim=1).values.tolist() == [1.0] * 6
        assert soft.sum(dim=1).tolist() == [1.0] * 6

    def test_superposed_has_as_many_labels_as_asked_for(self) -> None:
        method = make_method(num_classes=40, superposed_probability=1.0, superposed_classes=3)
        soft = draw(method, 50).soft_labels
        assert soft is not None
        assert soft.sum(dim=1).tolist() == pytest.approx([1.0] * 50)
        counts = (soft > 0).sum(dim=1)
        assert counts.max() == 3
        assert counts.double().mean() > 2.5

    @pytest.mark.parametrize(("classes", "mixed"), [(4, 2), (10, 2), (100, 10), (37, 3)])
    def test_mixes_a_tenth_of_the_classes_unless_told_otherwise(self, classes: int, mixed: int) -> None:
        assert make_method(num_classes=classes).mixed == mixed

    def test_superposes_as_often_as_asked_for(self) -> None:
        method = make_method(num_classes=40, superposed_probability=0.4)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            batches = [method.draw(2, random).soft_labels for _ in range(200)]
        share = sum(bool((soft.max() < 1.0).item()) for soft in batches if soft is not None) / 200
        assert 0.3 < share < 0.5


@pytest.mark.parametrize("superposed", [0.0, 1.0])
@pytest.mark.parametrize("disentangle", [True, False])
def test_latents_are_the_weighted_sum_of_mapped_embeddings(
    superposed: float, disentangle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make_method(superposed_probability=superposed, disentangle=disentangle, noise_scale=0.0)
    received: list[tuple[Tensor, Tensor]] = []

    def receive(latents: Tensor, mixtures: Tensor) -> Tensor:
        received.append((latents, mixtures))
        return torch.zeros(6, 3, 8, 8)

    monkeypatch.setattr(method.generator, "forward", receive)
    draw(method)
    latents, mixtures = received[0]
    rows = method.embedding.weight.detach()
    if superposed == 0.0:  # each row by itself
        one = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        expected = mixtures @ method.mapping(one)
    else:
        random = torch.Generator().manual_seed(0)
        torch.rand((), generator=random)
        labels = torch.randint(4, (6, 2), generator=random)
        torch.randn(6, 2, 16, generator=random)
        weights = torch.randn(6, 2, generator=random).softmax(dim=1)
        mapped = method.mapping(standardise(rows[labels]))
        expected = weights[:, :1] * mapped[:, 0] + weights[:, 1:] * mapped[:, 1]
        assert torch.allclose(mixtures, mix_labels(labels, weights, 4))
    assert torch.allclose(latents, expected, atol=1e-5)
    assert latents.shape == (6, 100 if disentangle else 16)


def test_noise_is_added_to_embeddings_by_its_scale() -> None:
    def images(scale: float) -> Tensor:
        torch.manual_seed(0)
        return draw(make_method(superposed_probability=0.0, noise_scale=scale)).images

    assert not torch.equal(images(0.0), images(1.0))
    assert not torch.equal(images(1.0), images(2.0))


class TestEmbedding:
    def test_starts_from_the_rows_of_the_classifier_and_is_trained(self) -> None:
        method = make_method()
        assert torch.equal(method.embedding.weight, tiny_teacher().fc.weight)
        assert method.embedding.weight.requires_grad
        assert method.embedding.weight is not tiny_teacher().fc.weight

    def test_may_be_random_of_any_width(self) -> None:
        assert make_method(embedding="random", embedding_size=12).embedding.weight.shape == (4, 12)

    def test_of_a_teacher_without_classifier_must_be_random(self) -> None:
        class Bare(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

            def forward(self, images: Tensor) -> Tensor:
                logits: Tensor = self.norm(self.conv(images)).mean(dim=(2, 3))
                return logits

        teacher = Bare().eval()
        facts = read_facts(teacher, (3, 8, 8))
        with pytest.raises(UnsupportedModelError, match="set embedding to 'random'"):
            Qimera()(teacher, facts, GenerationRequest(2, 0))
        assert len(Qimera(embedding="random", steps=2)(teacher, facts, GenerationRequest(2, 0))) == 2

    def test_of_a_convolution_as_classifier_works_too(self) -> None:
        teacher = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten()
        )
        facts = read_facts(teacher.eval(), (3, 8, 8))
        assert len(Qimera(steps=2)(teacher, facts, GenerationRequest(2, 0))) == 2


def test_objective_is_soft_cross_entropy_and_a_tenth_of_the_batchnorm_distance() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    batch = Batch(torch.zeros(2, 3, 8, 8), soft_labels=torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    layer = BatchNormStatistics(
        "bn", torch.tensor([2.0, 0.0]), torch.tensor([4.0, 1.0]), torch.zeros(2), torch.ones(2), 1e-5, 8
    )
    terms = make_method().objective(Seen(batch, logits, [layer], nn.Identity())).terms
    first = 0.25 * math.log(4 / 3) + 0.75 * math.log(4.0)
    assert terms["cross_entropy"].item() == pytest.approx((first + math.log(2.0)) / 2)
    assert terms["batchnorm"].item() == pytest.approx(0.1 * (4 / 2 + 9 / 2))


def test_large_images_mix_scales_by_the_weights_of_the_classes() -> None:
    method = make_method(network="large", superposed_probability=1.0)
    assert method.generator.first_norm.scale is not None
    assert method.generator.first_norm.scale.shape == (4, 128)
    batch = draw(method)
    assert batch.images.shape == (6, 3, 8, 8)


def test_training_lowers_the_loss() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    with frozen(teacher):
        source = Qimera(steps_per_epoch=10, superposed_probability=0.0).source(teacher, facts, GenerationRequest(1, 0))
        for _ in range(40):
            source.next_batch(nn.Identity())
    curves = source.curves()
    sums = [curves["generator.cross_entropy"][epoch] + curves["generator.batchnorm"][epoch] for epoch in (0, -1)]
    assert sums[1] < 0.7 * sums[0]


def test_fixed_sets_have_soft_labels_that_sum_to_one() -> None:
    teacher = tiny_teacher()
    found = Qimera(steps=4)(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(40, 0))
    assert found.labels is None
    assert found.soft_labels is not None
    assert torch.allclose(found.soft_labels.sum(dim=1), torch.ones(40))
    assert F.one_hot(found.soft_labels.argmax(dim=1)).shape[1] <= 4
