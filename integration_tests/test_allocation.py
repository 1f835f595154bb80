"""Bits within a budget, from the settings to the quantizers of a student."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization import bit_budget
from dfq_plugin.quantization.sensitivity import measure_losses
from dfq_plugin.student import Student
from dfq_plugin.testing import tiny_teacher
from integration_tests.students import distance, make_set, student_of, tiny_student, weights_of

pytestmark = pytest.mark.usefixtures("kernels")

EVERYWHERE: dict[str, Any] = {"first_last_bits": None, "weight_bits": 8}


@cache
def within(bits: float) -> Student:
    return student_of(tiny_teacher(), allocation={"average_weight_bits": bits}, **EVERYWHERE)


def average_bits(student: Student) -> float:
    sizes = {site.name: weight.numel() for site, weight in weights_of(student).values()}
    plan = {entry.name: entry.applied for entry in student.plan}
    return sum(size * plan[name] for name, size in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize("bits", [3.0, 4.0, 5.5])
def test_weights_stay_within_the_budget_and_quantizers_have_what_the_plan_says(bits: float) -> None:
    student = within(bits)
    assert bits - 1.0 < average_bits(student) <= bits
    assert {entry.name: entry.applied for entry in student.plan} == {
        site.name: quantizer.num_bits for site, quantizer in student.quantizers()
    }
    assert {entry.reason for entry in student.plan if entry.kind == "weight"} == {"budget"}
    for site, weight in weights_of(student).values():
        assert len(weight[0].unique()) <= 2 ** student.quantizer(site.name).num_bits


def test_is_nearer_to_the_teacher_than_the_same_size_everywhere_alike() -> None:
    images, teacher = make_set(64, seed=1).images, tiny_teacher()
    with torch.no_grad():
        teacher.conv2.weight.copy_(0.1 * teacher.conv2.weight.sign())  # which two bits hold without any loss
    uniform = student_of(teacher, first_last_bits=None, weight_bits=4)
    chosen = student_of(teacher, allocation={"average_weight_bits": 4.0}, **EVERYWHERE)
    bits = {entry.layer: entry.applied for entry in chosen.plan if entry.kind == "weight"}
    assert bits["conv2/conv2d/0"] == 2
    assert average_bits(chosen) <= 4.0
    assert distance(chosen, teacher, images) < 0.5 * distance(uniform, teacher, images)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_is_never_farther_from_it_where_single_losses_do_not_add_up(bits: int) -> None:
    # Of this network, adding up single losses chooses a worse plan than the same bits everywhere.
    images, teacher = make_set().images, tiny_teacher()
    uniform = student_of(teacher, first_last_bits=None, weight_bits=bits)
    assert distance(within(float(bits)), teacher, images) <= distance(uniform, teacher, images)


def test_choices_are_tried_on_images_from_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.Tensor] = []

    def spy(student: Student, sites: Any, widths: Any, images: torch.Tensor) -> dict[str, dict[int, float]]:
        tried.append(images)
        return measure_losses(student, sites, widths, images)

    monkeypatch.setattr(bit_budget, "measure_losses", spy)
    synthetic = make_set(24)
    student_of(tiny_teacher(), synthetic, allocation={"average_weight_bits": 4.0, "num_images": 4}, **EVERYWHERE)
    assert torch.equal(tried[0], synthetic.images[[0, 6, 12, 18]])


def test_rules_and_overrides_stay_and_count() -> None:
    fields: dict[str, Any] = {"weight_bits": 8, "bit_overrides": {"fc|WEIGHT": 6}, "first_last_bits": 8}
    student = student_of(tiny_teacher(), allocation={"average_weight_bits": 4.0}, **fields)
    bits = {entry.layer: entry.applied for entry in student.plan if entry.kind == "weight"}
    assert bits["conv1/conv2d/0"] == 8
    assert bits["fc/linear/0"] == 6
    assert average_bits(student) <= 4.0


def test_a_budget_of_operations_takes_bits_from_activations_too() -> None:
    # Multiplications: 216 weights at 64 places, 1152 at 16, 64 at one; 8 x 8 bits each is 2.07 million.
    student = student_of(tiny_teacher(), allocation={"giga_bit_operations": 0.8e-3}, **EVERYWHERE)
    bits = {entry.name: entry.applied for entry in student.plan}
    products = {"conv1/conv2d/0": 216 * 64, "conv2/conv2d/0": 1152 * 16, "fc/linear/0": 64}
    used = sum(
        products[layer.operator] * bits[str(layer.weight_quantizer)] * bits[str(layer.input_quantizer)]
        for layer in student.layers
    )
    assert 0.4e6 < used <= 0.8e6
    assert {entry.reason for entry in student.plan} >= {"budget", "network input"}


def test_a_budget_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(ConfigError, match="raise it or allow fewer bits"):
        student_of(tiny_teacher(), allocation={"average_weight_bits": 3.0, "widths": [4, 8]}, **EVERYWHERE)


def test_two_budgets_are_an_error() -> None:
    with pytest.raises(ValueError, match="two budgets; set one"):
        student_of(tiny_teacher(), allocation={"average_weight_bits": 3.0, "giga_bit_operations": 1.0})


def test_measuring_falls_with_bits_and_leaves_the_student_as_it_was() -> None:
    student = copy.deepcopy(tiny_student(8))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        losses = measure_losses(student, student.sites, (2, 4, 8), make_set().images)
    assert set(losses) == {site.name for site in student.sites}
    for options in losses.values():
        assert options[2] > options[4] > options[8] >= 0.0
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(quantizer.is_enabled_quantization() for _, quantizer in student.quantizers())
    assert all(quantizer.num_bits == 8 for _, quantizer in student.quantizers())
