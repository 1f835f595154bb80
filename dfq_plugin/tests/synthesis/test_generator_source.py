"""The source of generated batches: what a step learns from, what it leaves alone, how it goes on from a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch
from dfq_plugin.errors import ProviderContractError
from dfq_plugin.network_state import frozen
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.generator_source import (
    GeneratorMethod,
    GeneratorSettings,
    GeneratorSource,
    Objective,
    Seen,
)
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.teacher import read_facts
from dfq_plugin.tensor_files import read_tensors, write_tensors
from dfq_plugin.testing import tiny_teacher


class Shade(GeneratorMethod):
    """The smallest of generators: images of noise, shifted and stretched."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.stretch = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.5))
        self.seen: list[Seen] = []

    def draw(self, count: int, random: torch.Generator) -> Batch:
        noise = torch.randn(count, 3, 8, 8, generator=random)
        labels = torch.randint(4, (count,), generator=random)
        return Batch(self.shift + self.stretch * noise, labels)

    def objective(self, seen: Seen) -> Objective:
        self.seen.append(seen)
        terms = {"size": seen.batch.images.square().mean(), "batchnorm": batchnorm_loss(seen.statistics)}
        return Objective(terms, watched={"student": seen.student(seen.batch.images).mean()})


def make(seed: int = 0, method: GeneratorMethod | None = None, **changes: Any) -> tuple[GeneratorSource, nn.Module]:
    teacher = tiny_teacher().requires_grad_(requires_grad=False)
    fields = {"batch_size": 4, "steps_per_epoch": 3, "warmup_epochs": 2, "learning_rate": 0.1, "milestones": ()}
    settings = GeneratorSettings("shade", **{**fields, **changes})
    method = method or Shade()
    return GeneratorSource(method, teacher, read_facts(teacher, (3, 8, 8)), settings, seed), teacher


STUDENT = tiny_teacher()


def test_every_batch_is_one_adam_step_of_the_generator() -> None:
    source, _ = make(method=(method := Shade()))
    before = method.shift.item()
    batch = source.next_batch(STUDENT)
    assert source.steps == 1
    assert before - method.shift.item() == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the rate
    assert len(batch) == 4
    assert not batch.images.requires_grad


def test_batch_is_from_before_the_step() -> None:
    source, _ = make(method=(method := Shade()))
    batch = source.next_batch(STUDENT)
    assert torch.equal(batch.images, method.seen[0].batch.images)


def test_gradient_is_that_of_the_sum_of_the_terms_alone() -> None:
    method = Shade()
    source, teacher = make(method=method, learning_rate=1e-30)
    source.next_batch(STUDENT)
    found = method.shift.grad
    assert found is not None
    other = Shade()
    images = other.draw(4, torch.Generator().manual_seed(0)).images
    with tap_batchnorm(teacher, read_facts(teacher, (3, 8, 8))) as seen:
        teacher(images)
        (images.square().mean() + batchnorm_loss(seen)).backward()
    assert other.shift.grad is not None
    assert found.item() == pytest.approx(other.shift.grad.item(), rel=1e-5)


def test_nothing_is_added_to_gradients_of_teacher_and_student() -> None:
    student = tiny_teacher().requires_grad_()
    source, teacher = make()
    teacher.requires_grad_()
    source.next_batch(student)
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_it_learns_also_where_the_caller_has_gradients_switched_off() -> None:
    source, _ = make(method=(method := Shade()))
    with torch.no_grad():
        source.next_batch(STUDENT)
    assert method.shift.item() != 2.0


def test_warm_up_is_done_once() -> None:
    source, _ = make()
    source.prepare(STUDENT)
    assert source.steps == 6
    source.prepare(STUDENT)
    assert source.steps == 6


def test_rate_falls_by_ten_at_the_milestones() -> None:
    source, _ = make(milestones=(1, 2))
    rates = []
    for _ in range(7):
        rates.append(source._optimizer.param_groups[0]["lr"])
        source.next_batch(STUDENT)
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001])


def test_curves_hold_one_mean_per_epoch() -> None:
    source, _ = make(method=(method := Shade()), learning_rate=1e-30)
    for _ in range(4):
        source.next_batch(STUDENT)
    sizes = [seen.batch.images.square().mean().item() for seen in method.seen]
    curves = source.curves()
    assert curves.keys() == {"generator.size", "generator.batchnorm", "generator.student"}
    assert curves["generator.size"] == pytest.approx((sum(sizes[:3]) / 3, sizes[3]))


def test_same_seed_gives_same_batches_and_moves_no_global_state() -> None:
    state = torch.get_rng_state()
    one, two, other = (
        [source.next_batch(STUDENT).images for _ in range(3)] for source, _ in (make(1), make(1), make(2))
    )
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_another_source_goes_on_from_a_state_bit_for_bit(tmp_path: Path) -> None:
    source, _ = make(1, milestones=(1,))
    for _ in range(2):
        source.next_batch(STUDENT)
    write_tensors(tmp_path / "state", source.state_dict())
    other, _ = make(5, milestones=(1,))
    other.load_state_dict(read_tensors(tmp_path / "state")[0])
    assert other.steps == 2
    for _ in range(4):
        left, right = source.next_batch(STUDENT), other.next_batch(STUDENT)
        assert torch.equal(left.images, right.images)
    assert other.curves() == source.curves()


@pytest.mark.parametrize("count", [1, 4, 10])
def test_draw_gives_as_many_images_as_asked_for_and_learns_nothing(count: int) -> None:
    source, _ = make(method=(method := Shade()))
    drawn = source.draw(count)
    assert len(drawn) == count
    assert drawn.labels is not None
    assert len(drawn.labels) == count
    assert drawn.soft_labels is None
    assert not drawn.images.requires_grad
    assert method.shift.item() == 2.0
    assert source.curves() == {}


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_term() -> None:
    class Broken(Shade):
        def objective(self, seen: Seen) -> Objective:
            terms: dict[str, Tensor] = {"size": seen.batch.images.mean(), "odd": seen.batch.images.mean() / 0.0}
            return Objective(terms)

    source, teacher = make(method=Broken())
    with frozen(teacher), pytest.raises(ProviderContractError, match=r"'shade', step 0: .*odd inf.*learning_rate"):
        source.next_batch(STUDENT)
