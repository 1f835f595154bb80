"""Fine-tuning a student that NNCF made: nearer to the teacher, on integers afterwards, and repeatable."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dfq_plugin.config import FinetuneSettings, QuantizeSettings
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization import quantize
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import Branches, filled

pytestmark = pytest.mark.usefixtures("kernels")


def make_set(count: int = 128, seed: int = 0) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return SyntheticSet(images, None, None, describe_run("noise", {}, seed, "any"))


@pytest.fixture(scope="module", params=["performance", "mixed"])
def student(request: pytest.FixtureRequest, kernels: object) -> Student:  # noqa: ARG001 - built first
    """Two bits everywhere but at the ends; every test takes a copy."""
    settings = QuantizeSettings(weight_bits=2, activation_bits=2, preset=request.param)
    return quantize(tiny_teacher(), make_set(), settings)


def run(student: Student, **fields: Any) -> History:
    settings = FinetuneSettings.model_validate({"epochs": 2, "batch_size": 16, "lr": 1e-2, **fields})
    return finetune(tiny_teacher(), student, make_set(), settings)


def distance(student: nn.Module, seed: int) -> float:
    images = make_set(seed=seed).images
    with torch.no_grad():
        expected = tiny_teacher()(images)
        return float((student(images) - expected).norm() / expected.norm())


def ranges_of(student: Student) -> dict[str, torch.Tensor]:
    return {site.name: student.grid(site).step.clone() for site in student.sites}


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_student_comes_nearer_to_the_teacher_on_images_it_has_not_seen(student: Student, loss: str) -> None:
    tuned = copy.deepcopy(student)
    history = run(tuned, loss=loss, lr=3e-3, epochs=16, augment="none")
    assert len(history.losses) == 16
    assert history.losses[-1] < 0.8 * history.losses[0]
    assert distance(tuned, seed=1) < 0.97 * distance(student, seed=1)


def test_biases_are_on_the_integer_grid_afterwards(student: Student) -> None:
    tuned = copy.deepcopy(student)
    run(tuned)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    tuned.snap_biases()
    assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items() if "bias" in name)


def test_bits_and_plan_stay(student: Student) -> None:
    tuned = copy.deepcopy(student)
    run(tuned)
    assert tuned.plan == student.plan
    assert [quantizer.num_bits for _, quantizer in tuned.quantizers()] == [entry.applied for entry in tuned.plan]
    assert all(quantizer.is_enabled_quantization() for _, quantizer in tuned.quantizers())


def test_ranges_move_unless_their_rate_is_zero(student: Student) -> None:
    moving, fixed = copy.deepcopy(student), copy.deepcopy(student)
    run(moving, range_lr_multiplier=1.0)
    run(fixed, range_lr_multiplier=0.0)
    before = ranges_of(student)
    assert all(torch.equal(step, before[name]) for name, step in ranges_of(fixed).items())
    assert all(not torch.equal(step, before[name]) for name, step in ranges_of(moving).items())
    assert not torch.equal(
        fixed.network.get_parameter("network.conv2.weight"), student.network.get_parameter("network.conv2.weight")
    )


def test_nothing_can_be_trained_afterwards(student: Student) -> None:
    tuned = copy.deepcopy(student)
    run(tuned, epochs=1)
    assert not tuned.training
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_teacher_and_random_state_are_left_as_they_were(student: Student) -> None:
    teacher, state = tiny_teacher().train(), torch.get_rng_state()
    before = Snapshot(teacher)
    finetune(teacher, copy.deepcopy(student), make_set(), FinetuneSettings(epochs=1, batch_size=16))
    assert before.restore() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_student(student: Student) -> None:
    images = make_set(seed=1).images
    outputs = []
    for seed in (3, 3, 4):
        tuned = copy.deepcopy(student)
        run(tuned, seed=seed, epochs=2)
        outputs.append(tuned(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_rate_that_is_far_too_high_is_an_error_that_names_it(student: Student) -> None:
    with pytest.raises(InputError, match=r"not finite in epoch \d; lower finetune.lr \(now 1e\+30\)"):
        run(copy.deepcopy(student), lr=1e30)


def test_a_quantizer_in_two_places_is_trained_once() -> None:
    teacher = filled(Branches())
    student = quantize(teacher, make_set(), QuantizeSettings(weight_bits=2, activation_bits=2))
    settings = FinetuneSettings(epochs=4, batch_size=16, lr=1e-2, augment="none")
    history = finetune(teacher, student, make_set(), settings)
    assert history.losses[-1] < history.losses[0]
