"""Layers found by the names they have in the teacher."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.finetuning.features import compared_layers
from dfq_plugin.student import Student
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.finetuning.samples import make_set, make_student


class Holder(nn.Module):
    """Holds a network one level down, as students made by ``quantize`` do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("held", [False, True])
def test_outputs_are_those_of_the_latest_pass_in_the_order_of_the_network(held: bool) -> None:
    teacher = tiny_teacher()
    inner = copy.deepcopy(teacher)
    student = Student(Holder(inner) if held else inner, (3, 8, 8), (), (), ())
    images = make_set().images
    with compared_layers(teacher, student, ("conv1", "relu2")) as (of_teacher, of_student):
        for part in (images[:2], images[2:]):
            teacher(part)
            student(part)
    assert [tuple(output.shape) for output in of_teacher] == [(6, 8, 8, 8), (6, 16, 4, 4)]
    assert all(torch.equal(left, right) for left, right in zip(of_teacher, of_student, strict=True))
    assert torch.equal(of_teacher[0], teacher.conv1(images[2:]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*teacher.modules(), *student.modules()))


def test_an_expression_stands_for_every_layer_that_it_matches_from_the_start() -> None:
    teacher, student, images = tiny_teacher(), make_student(), make_set().images
    with compared_layers(teacher, student, ("relu2", r"{re}conv\d$", "conv1")) as (of_teacher, of_student):
        teacher(images)
        student(images)
    shapes = sorted(tuple(output.shape) for output in of_teacher)
    assert shapes == sorted(tuple(output.shape) for output in of_student)
    assert shapes == [(8, 8, 8, 8), (8, 16, 4, 4), (8, 16, 4, 4)]  # conv1 once; relu2 and conv2 have the same shape


def test_an_expression_that_matches_nothing_is_an_error_that_names_it() -> None:
    found = compared_layers(tiny_teacher(), make_student(), ("{re}onv",))
    with pytest.raises(ConfigError, match=r"TinyNetwork has no layer that matches '\{re\}onv'"), found:
        pass


def test_without_names_the_pooled_features_are_read() -> None:
    teacher, student = tiny_teacher(), make_student()
    with compared_layers(teacher, student, ()) as (of_teacher, of_student):
        logits = teacher(make_set().images)
        student(make_set().images)
    assert of_teacher[0].shape == of_student[0].shape == (8, 16)
    assert torch.allclose(teacher.fc(of_teacher[0]), logits)


def test_a_layer_that_does_not_exist_is_an_error_that_names_it() -> None:
    found = compared_layers(tiny_teacher(), make_student(), ("conv9",))
    with pytest.raises(ConfigError, match="feature_layers: TinyNetwork has no layer 'conv9'"), found:
        pass


def test_a_teacher_without_pooled_features_is_an_error_that_says_what_to_do() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    student = Student(copy.deepcopy(teacher), (3, 8, 8), (), (), ())
    found = compared_layers(teacher, student, ())
    with pytest.raises(UnsupportedModelError, match=r"name finetune\.feature_layers instead"), found:
        pass
