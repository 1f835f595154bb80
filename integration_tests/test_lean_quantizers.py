"""Our rounding in place of NNCF's while a student is trained: the same numbers, the same gradients, and only then."""

from __future__ import annotations

import copy

import pytest
import torch

from dfq_plugin.finetuning.lean import lean_quantizers
from dfq_plugin.student import Student
from integration_tests.students import make_set, tiny_student

BITS = [8, 4, 2]


def pieces(student: Student, bits: int) -> list[tuple[object, torch.Tensor]]:
    """Each quantizer with values that are within and beyond its range, never on the edge between two codes."""
    generator = torch.Generator().manual_seed(bits)
    weights = {layer.weight_quantizer: layer.weight for layer in student.layers}
    shapes = [
        (quantizer, student.network.get_parameter(weights[site.name]).shape if site.kind == "weight" else (4, 3, 6, 6))
        for site, quantizer in student.quantizers()
    ]
    return [(quantizer, torch.randn(shape, generator=generator) * quantizer.scale) for quantizer, shape in shapes]


@pytest.mark.parametrize("bits", BITS)
def test_values_and_gradients_are_those_of_nncf(bits: int) -> None:
    student = copy.deepcopy(tiny_student(bits))
    for quantizer, values in pieces(student, bits):
        found = []
        for lean in (False, True):
            leaf, incoming = values.clone().requires_grad_(), values.flip(0)
            quantizer.scale.requires_grad_().grad = None  # type: ignore[attr-defined]
            if lean:
                with lean_quantizers(student):
                    output = quantizer(leaf)  # type: ignore[operator]
            else:
                output = quantizer(leaf)  # type: ignore[operator]
            output.backward(incoming)
            found.append((output.detach(), leaf.grad, quantizer.scale.grad.clone()))  # type: ignore[attr-defined]
        (expected, passed, slope), (own, own_passed, own_slope) = found
        assert torch.allclose(own, expected, atol=1e-5)
        assert own_passed is not None
        assert torch.equal(own_passed, passed)
        if not quantizer.signed:  # type: ignore[attr-defined]  # of signed ones NNCF counts rounding errors half
            assert torch.allclose(own_slope, slope, rtol=1e-3, atol=1e-3)


def test_the_whole_student_gives_the_same_logits() -> None:
    student, images = copy.deepcopy(tiny_student(4)), make_set().images
    expected = student(images)
    with lean_quantizers(student):
        own = student(images)
    assert torch.allclose(own, expected, atol=1e-5)
    assert torch.equal(student(images), expected)


def test_a_copy_made_meanwhile_rounds_by_its_own_ranges() -> None:
    student, images = copy.deepcopy(tiny_student(4)), make_set().images
    before = student(images)
    with lean_quantizers(student):
        other = copy.deepcopy(student)
        for _, quantizer in other.quantizers():
            quantizer.scale.data.mul_(1.5)
        assert not torch.allclose(other(images), before, atol=1e-3)
        assert torch.allclose(student(images), before, atol=1e-5)
