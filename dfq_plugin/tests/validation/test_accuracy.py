"""Agreement, accuracy, divergence and noise, against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.validation import accuracy
from dfq_plugin.validation.accuracy import compare_logits, onnx_logits, percent, sqnr, torch_logits

TEACHER = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
STUDENT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])


def test_agreement_is_with_the_teacher_and_accuracy_with_the_labels() -> None:
    quality = compare_logits(STUDENT, TEACHER, torch.tensor([1, 1, 1, 0]))
    assert quality.agreement == 75.0
    assert quality.accuracy == 50.0


def test_accuracy_is_not_known_without_labels() -> None:
    assert compare_logits(STUDENT, TEACHER, None).accuracy is None


def test_divergence_is_from_the_teacher_summed_over_classes_and_averaged_over_images() -> None:
    teacher, student = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert compare_logits(student, teacher, None).kl == pytest.approx(expected, rel=1e-5)
    assert compare_logits(teacher, teacher, None).kl == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("side", "sizes"), [(8, [64, 36]), (224, [20, 20, 5]), (1500, [1, 1])])
def test_large_images_are_run_fewer_at_a_time(side: int, sizes: list[int]) -> None:
    seen: list[int] = []
    network = nn.Conv2d(3, 1, 1, stride=side)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    torch_logits(network, torch.zeros(1, 1, 1, 1).expand(sum(sizes), 3, side, side))
    assert seen == sizes


class TestDenseOutput:
    """Two images of two places each: the student errs at one of the four."""

    TEACHER = TEACHER.reshape(2, 2, 2).transpose(1, 2)
    STUDENT = STUDENT.reshape(2, 2, 2).transpose(1, 2)

    def test_agreement_is_of_places(self) -> None:
        assert compare_logits(self.STUDENT, self.TEACHER, None).agreement == 75.0

    def test_accuracy_needs_a_label_for_every_place(self) -> None:
        labels = torch.tensor([[1, 1], [1, 0]])
        assert compare_logits(self.STUDENT, self.TEACHER, labels).accuracy == 50.0
        assert compare_logits(self.STUDENT, self.TEACHER, torch.tensor([1, 0])).accuracy is None

    def test_divergence_is_summed_over_classes_and_averaged_over_places(self) -> None:
        dense, flat = compare_logits(self.STUDENT, self.TEACHER, None), compare_logits(STUDENT, TEACHER, None)
        assert dense.kl == pytest.approx(flat.kl, rel=1e-6)
        assert dense.sqnr_db == pytest.approx(flat.sqnr_db)


def test_noise_is_in_decibels_of_the_teachers_power() -> None:
    assert sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr(torch.tensor([1.0]), torch.tensor([-9.0])) == pytest.approx(-20.0)
    assert compare_logits(STUDENT, TEACHER, None).sqnr_db == pytest.approx(10 * math.log10(16 / 8))


def test_noise_is_infinite_without_error_and_finite_without_signal() -> None:
    assert sqnr(TEACHER, TEACHER) == math.inf
    assert math.isfinite(sqnr(torch.zeros(3), torch.ones(3)))


def test_percent_counts_every_entry() -> None:
    assert percent(torch.tensor([True, False, False, False])) == 25.0


class Doubling(nn.Module):
    """Its output depends on the mode, and it counts the images of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        result: Tensor = images.flatten(1) * self.weight * (100.0 if self.training else 1.0)
        return result


@pytest.mark.parametrize("training", [True, False])
def test_network_runs_in_eval_mode_and_its_mode_is_put_back(training: bool) -> None:
    network = Doubling().train(training)
    images = torch.arange(130.0).reshape(130, 1, 1, 1)
    logits = torch_logits(network, images)
    assert torch.equal(logits, 2 * images.flatten(1))
    assert not logits.requires_grad
    assert network.batches == [64, 64, 2]
    assert network.training is training


def test_session_runs_every_image_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_session: Any, images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [images.reshape(len(images), -1) + 1, np.zeros(1)]

    monkeypatch.setattr(accuracy, "run", run)
    images = torch.arange(70.0).reshape(70, 1, 1, 1)
    assert torch.equal(onnx_logits(None, images), images.flatten(1) + 1)
