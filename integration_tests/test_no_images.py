"""Quantizing without an image: the provider `none`, alone and in a whole job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import dfq_plugin as dfq
from dfq_plugin.errors import ConfigError
from dfq_plugin.testing import tiny_teacher
from integration_tests.students import distance, make_set, student_of

pytestmark = pytest.mark.usefixtures("kernels")

STAND_INS = replace(make_set(), informative=False)


def ranges(student: dfq.Student) -> list[float]:
    return [float(student.grid(site).step) for site in student.sites if site.kind == "activation"]


def test_ranges_come_from_batchnorm_statistics() -> None:
    teacher = tiny_teacher()
    derived = student_of(teacher, activation_range="batchnorm")
    assert ranges(student_of(teacher, STAND_INS)) == ranges(derived)
    assert ranges(student_of(teacher, make_set())) != ranges(derived)


def test_a_range_that_is_asked_for_is_taken_from_the_stand_ins() -> None:
    teacher = tiny_teacher()
    assert ranges(student_of(teacher, STAND_INS, activation_range="mse")) == ranges(student_of(teacher, make_set()))


def test_nothing_is_learned_from_stand_ins() -> None:
    teacher = tiny_teacher()
    with pytest.raises(ConfigError, match=r"reconstruction.*provider 'noise' only stand in"):
        student_of(teacher, STAND_INS, reconstruction={"steps": 2})
    with pytest.raises(ConfigError, match=r"Fine-tuning.*provider 'noise' only stand in"):
        dfq.finetune(teacher, student_of(teacher, STAND_INS), STAND_INS, epochs=1)


def test_a_network_without_batchnorm_takes_its_ranges_from_the_stand_ins() -> None:
    teacher = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4)
    )
    student = student_of(teacher.eval(), STAND_INS)
    assert distance(student, teacher, STAND_INS.images) < 0.05


@pytest.mark.parametrize("recipe", [{"calibration": {"provider": "none", "num_samples": 8}}, {"recipe": "fast"}])
def test_whole_job(job: dict[str, Any], recipe: dict[str, Any]) -> None:
    del job["calibration"]
    report = dfq.run({**job, **recipe})
    assert report.provenance["provider"] == "none"
    assert report.parity["mismatches"] == 0
    assert report.parity["codes_compared"] > 0
    assert report.census["float"] == 0
