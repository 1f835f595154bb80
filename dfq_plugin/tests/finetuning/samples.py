"""Students without NNCF, and things to train them on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.config import FinetuneSettings
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.student import ProductLayer, QuantizerSite, Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher

LAYERS = (
    ProductLayer("conv1", "conv1.weight", None, None, None),
    ProductLayer("conv2", "conv2.weight", None, None, None),
    ProductLayer("fc", "fc.weight", "fc.bias", None, None),
)
SITE = QuantizerSite("relu1", "activation", "relu1", (), multiplied=True)
SETTINGS = {"epochs": 3, "lr": 1e-2, "batch_size": 4, "augment": "none"}


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate({**SETTINGS, **changes})


def make_set(count: int = 8, *, labelled: bool = False) -> SyntheticSet:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 8, 8, generator=random)
    labels = torch.randint(4, (count,), generator=random) if labelled else None
    return SyntheticSet(images, labels, None, describe_run("noise", {}, 1, "any"))


def make_student(layers: tuple[ProductLayer, ...] = LAYERS) -> Student:
    """A copy of the teacher with its weights a little off."""
    network = tiny_teacher().requires_grad_(requires_grad=False)
    random = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=random))
    return Student(network, (3, 8, 8), (), layers, ())


def run(student: Student, synthetic: SyntheticSet | None = None, **changes: Any) -> History:
    return finetune(tiny_teacher(), student, synthetic or make_set(), settings(**changes))


def weights_of(student: Student) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


class Clip(nn.Module):
    """Stands in for a quantizer: a range that can be trained."""

    def __init__(self, level_low: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.level_low, self.level_high = level_low, 7

    def forward(self, values: Tensor) -> Tensor:
        return torch.minimum(values, self.scale)

    def is_enabled_quantization(self) -> bool:
        return True

    def get_trainable_params(self) -> dict[str, nn.Parameter]:
        return {"scale": self.scale}


def make_clipped_student(monkeypatch: pytest.MonkeyPatch) -> tuple[Student, Clip]:
    """A student with one activation quantizer, behind its first ReLU."""
    student, clip = make_student(), Clip()
    student.network.add_module("relu1", nn.Sequential(nn.ReLU(), clip))
    monkeypatch.setattr(Student, "quantizers", lambda s: iter([(SITE, s.network.get_submodule("relu1.1"))]))
    return student, clip
