"""AdaDFQ: its objective against sums done by hand, its game, and the student that a fixed set is made against."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch
from dfq_plugin.errors import ConfigError
from dfq_plugin.providers.adadfq import AdaDFQ
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.registry import build_provider, get_provider
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics
from dfq_plugin.synthesis.generator_source import Objective, Seen
from dfq_plugin.synthesis.quick_student import QuickStudent
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract

LN2 = math.log(2.0)
TEACHER_LOGITS = torch.tensor([[2 * LN2, 0.0], [0.0, 0.0], [1000.0, 0.0]])
STUDENT_LOGITS = torch.tensor([[LN2, 0.0], [0.0, 0.0], [0.0, 0.0]])
# differences [ln 2, 0], [0, 0] and [1000, 0]: entropies of (2/3, 1/3), (1/2, 1/2) and (1, 0)
H_FIRST = (math.log(3.0) - 2 / 3 * LN2) / LN2
DISAGREE = (math.log(3 / 2) + LN2 + 0.0) / 3
AGREE = (math.log(9 / 8) + LN2 + 0.0) / 3


class TestContract(ProviderContract):
    provider = AdaDFQ(steps=6, steps_per_epoch=3, batch_size=2)
    keeps_batches = True


class Says(nn.Module):
    """A network that always gives the same answer."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _images: Tensor) -> Tensor:
        return self.logits


def objective(**settings: Any) -> Objective:
    teacher = tiny_teacher()
    method = AdaDFQ(**settings).make_method(teacher, read_facts(teacher, (3, 8, 8)))
    seen = torch.tensor([2.0, 0.0]), torch.tensor([4.0, 1.0])
    layer = BatchNormStatistics("bn", *seen, torch.zeros(2), torch.ones(2), 1e-5, 8)
    batch = Batch(torch.zeros(3, 3, 8, 8), torch.tensor([0, 0, 0]))
    return method.objective(Seen(batch, TEACHER_LOGITS, [layer], Says(STUDENT_LOGITS)))


def test_it_is_registered_as_an_online_provider() -> None:
    assert get_provider("adadfq") is AdaDFQ
    assert AdaDFQ.online


class TestObjective:
    def test_has_three_terms_with_the_released_weights(self) -> None:
        terms = {name: term.item() for name, term in objective().terms.items()}
        assert terms == {
            "margin": pytest.approx(0.1 / 3 + (H_FIRST - 0.8 + 0.2) / 3, rel=1e-5),
            "balance": pytest.approx(0.2 * DISAGREE + 0.1 * AGREE, rel=1e-5),
            "batchnorm": pytest.approx(4 / 2 + 9 / 2),
        }

    def test_weights_and_margins_can_be_set(self) -> None:
        found = objective(alpha_ds=0.5, alpha_as=0.3, beta=2.0, gamma=3.0, lambda_l=0.2, lambda_u=1.0).terms
        assert found["margin"].item() == pytest.approx(0.2 / 3, rel=1e-5)
        assert found["balance"].item() == pytest.approx(2 * (0.5 * DISAGREE + 0.3 * AGREE), rel=1e-5)
        assert found["batchnorm"].item() == pytest.approx(3 * 6.5)

    def test_watches_the_mean_adaptability(self) -> None:
        watched = objective().watched
        assert watched.keys() == {"adaptability"}
        assert watched["adaptability"].item() == pytest.approx(1 - (H_FIRST + 1.0 + 0.0) / 3, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 16, 33])
def test_any_batch_size_works(batch_size: int) -> None:
    teacher = tiny_teacher()
    provider = AdaDFQ(batch_size=batch_size, steps=2)
    assert len(provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(3, 0))) == 3


def test_generator_follows_the_student_it_is_shown() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))

    def after(student: nn.Module) -> Tensor:
        with frozen(teacher):
            source = AdaDFQ().source(teacher, facts, GenerationRequest(1, 0))
            source.next_batch(student)
            return source.next_batch(student).images

    other = tiny_teacher()
    with torch.no_grad():
        other.fc.weight.mul_(-1.0)
    assert torch.equal(after(tiny_teacher()), after(tiny_teacher()))
    assert not torch.equal(after(tiny_teacher()), after(other))


def test_gradients_reach_the_generator_through_the_student() -> None:
    teacher = tiny_teacher().requires_grad_(requires_grad=False)
    method = AdaDFQ().make_method(teacher, read_facts(teacher, (3, 8, 8)))
    batch = method.draw(4, torch.Generator().manual_seed(0))
    flat = torch.zeros(4, 4)
    layer = BatchNormStatistics("bn", torch.zeros(2), torch.ones(2), torch.zeros(2), torch.ones(2), 1e-5, 8)
    sum(method.objective(Seen(batch, flat, [layer], teacher)).terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in list(method.parameters())[:1])


def test_fixed_sets_are_made_against_a_student_of_the_bits_asked_for() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    batch = Batch(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    student = AdaDFQ(student_bits=3).make_student(teacher, facts, batch)
    assert isinstance(student, QuickStudent)
    assert student.bits == 3
    three, four = (
        AdaDFQ(steps=3, student_bits=bits)(teacher, facts, GenerationRequest(4, 0)).images for bits in (3, 4)
    )
    assert not torch.equal(three, four)


def test_training_lowers_the_sum_of_its_terms() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    provider = AdaDFQ(steps_per_epoch=5)
    with frozen(teacher):
        source = provider.source(teacher, facts, GenerationRequest(1, 0))
        student = provider.make_student(teacher, facts, source.next_batch(teacher))
        for _ in range(44):
            source.next_batch(student)
    curves = source.curves()
    sums = [sum(curves[f"generator.{name}"][epoch] for name in ("margin", "balance", "batchnorm")) for epoch in (0, -1)]
    assert sums[1] < 0.8 * sums[0]
    assert len(curves["generator.adaptability"]) == 9
    assert all(0 <= value <= 1 for value in curves["generator.adaptability"])


def test_margins_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lambda_l \(0.9\) is above lambda_u \(0.8\)"):
        build_provider("adadfq", {"lambda_l": 0.9})
