"""The quick student: the papers' grid, where it is cut, and that the teacher is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import InputError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.synthesis.quick_student import fake_quantize, quantize_weight, quick_student
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class TestGrid:
    def test_of_two_bits_has_the_four_values_of_the_formula(self) -> None:
        low, high = torch.tensor(-1.0), torch.tensor(2.0)  # scale 1, zero point -1 + 2
        values = torch.tensor([-5.0, -1.0, -0.4, 0.4, 0.6, 1.4, 2.0, 9.0])
        expected = torch.tensor([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
        assert torch.equal(fake_quantize(values, low, high, 2), expected)

    def test_is_moved_so_that_zero_is_one_of_its_values(self) -> None:
        found = fake_quantize(torch.tensor([0.0, 0.7]), torch.tensor(-0.3), torch.tensor(0.7), 2)
        assert found[0].item() == 0.0  # scale 3, zero point round(-0.9) + 2
        assert found[1].item() == pytest.approx(2 / 3)

    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_has_no_more_values_than_codes(self, bits: int) -> None:
        values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
        assert len(fake_quantize(values, values.min(), values.max(), bits).unique()) <= 2**bits

    def test_passes_gradients_straight_through_also_outside_of_the_range(self) -> None:
        values = torch.tensor([-5.0, 0.3, 9.0], requires_grad=True)
        (
            fake_quantize(values, torch.tensor(0.0), torch.tensor(1.0), 2) * torch.tensor([1.0, 2.0, 3.0])
        ).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [1.0, 2.0, 3.0]

    def test_of_a_range_of_zero_gives_zero_for_zero(self) -> None:
        assert fake_quantize(torch.zeros(3), torch.tensor(0.0), torch.tensor(0.0), 4).tolist() == [0.0, 0.0, 0.0]


def test_each_output_channel_of_a_weight_has_its_own_grid() -> None:
    weight = torch.tensor([[0.0, 3.0, 1.4], [0.0, 300.0, 140.0]]).reshape(2, 3, 1, 1)
    assert quantize_weight(weight, 2).flatten().tolist() == [0.0, 3.0, 1.0, 0.0, 300.0, 100.0]


class Functional(nn.Module):
    """Calls plain functions where others have modules."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(teacher)

    def forward(self, values: Tensor) -> Tensor:
        net = self.teacher
        values = F.relu(net.bn1(F.conv2d(values, weight=net.conv1.weight, padding=1)))  # type: ignore[operator, arg-type, union-attr]
        values = net.bn2(net.conv2(values)).relu()  # type: ignore[operator]
        logits: Tensor = net.fc(values.mean(dim=(2, 3)))  # type: ignore[operator]
        return logits


def test_functions_are_quantized_as_modules_are() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    by_module = quick_student(teacher, facts, 3, images())
    by_function = quick_student(Functional(teacher), facts, 3, images())
    assert torch.allclose(by_module(images()), by_function(images()), atol=1e-5)
    assert not torch.allclose(by_module(images()), teacher(images()), atol=1e-2)


def test_student_equals_the_network_rounded_by_hand() -> None:
    teacher = tiny_teacher()
    student = quick_student(teacher, read_facts(teacher, (3, 8, 8)), 4, images())

    def act(values: Tensor) -> Tensor:
        values = values.relu()
        return fake_quantize(values, values.min(), values.max(), 4)

    with torch.no_grad():
        values = act(teacher.bn1(F.conv2d(images(), quantize_weight(teacher.conv1.weight, 4), padding=1)))
        values = act(teacher.bn2(F.conv2d(values, quantize_weight(teacher.conv2.weight, 4), stride=2, padding=1)))
        expected = F.linear(values.mean(dim=(2, 3)), quantize_weight(teacher.fc.weight, 4), teacher.fc.bias)
        assert torch.allclose(student(images()), expected, atol=1e-5)


def test_it_nears_the_teacher_as_bits_grow() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    with torch.no_grad():
        gaps = [(quick_student(teacher, facts, b, images())(images()) - teacher(images())).norm() for b in (2, 4, 8)]
    assert gaps[0] > 2 * gaps[1] > 10 * gaps[2]


def test_ranges_are_read_while_calibrating_only() -> None:
    teacher = tiny_teacher()
    student = quick_student(teacher, read_facts(teacher, (3, 8, 8)), 4, images())
    before = [seen.state for seen in student.ranges]
    student(5 * images())
    assert [seen.state for seen in student.ranges] == before
    student.calibrating = True
    student(5 * images())
    after = [seen.state for seen in student.ranges]
    assert len(after) == 2
    assert all(new[1] > old[1] for new, old in zip(after, before, strict=True))


def test_state_dict_holds_ranges_and_weights() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    student, other = quick_student(teacher, facts, 4, images()), quick_student(teacher, facts, 4, 3 * images())
    other.load_state_dict(student.state_dict())
    assert torch.equal(other(images()), student(images()))
    assert [seen.state for seen in other.ranges] == [seen.state for seen in student.ranges]


def test_gradients_reach_images_and_not_weights() -> None:
    teacher = tiny_teacher()
    student = quick_student(teacher, read_facts(teacher, (3, 8, 8)), 4, images())
    pixels = images(2).requires_grad_()
    student(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in student.parameters())
    student.requires_grad_()(images(2)).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_teacher_is_left_as_it_was() -> None:
    teacher = tiny_teacher().train()
    before = Snapshot(teacher)
    student = quick_student(teacher, read_facts(teacher, (3, 8, 8)), 4, images())
    assert before.restore() == []
    assert not any(module.training for module in student.network.modules())


def test_images_of_another_shape_are_refused() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    for wrong in (torch.zeros(2, 3, 9, 8), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(InputError, match="calibrated on images"):
            quick_student(teacher, facts, 4, wrong)
