"""Networks that are built in unusual ways: an exact file, or a message that names what is in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin import export, validation
from dfq_plugin.config import ValidateSettings
from dfq_plugin.errors import DFQError, ExportError, UnsupportedModelError
from dfq_plugin.tests.quantization.networks import filled
from integration_tests.students import make_set, student_of

pytestmark = pytest.mark.usefixtures("kernels")


class Shared(nn.Module):
    """One convolution and one BatchNorm that run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        once = F.relu(self.norm(self.conv(images)))
        return torch.relu(self.norm(self.conv(once))).flatten(1)


class Gated(nn.Module):
    """Squeeze-excite, hard-swish, channel shuffle, a preactivated residual, and a classifier that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        low = F.hardswish(self.stem(images))
        values = low + self.deep(F.relu(self.norm(low)))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(values, 1)))))
        values = F.max_pool2d(F.silu(self.up(values * gate)), 2)
        mixed = torch.cat([values, low], dim=1).unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2)
        return F.adaptive_avg_pool2d(self.head(mixed), 1).flatten(1)


class Attention(nn.Module):
    """Tokens, attention, and what a transformer has around them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.expand, self.contract = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attend(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.contract(F.gelu(self.expand(self.norm(tokens))))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


NETWORKS = {"shared_modules": Shared, "gates": Gated, "attention": Attention, "sequential_at_the_top": sequential}


@pytest.mark.parametrize("fields", [{}, {"weight_bits": 4, "activation_bits": 4, "preset": "mixed"}], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantized_product_is_integer_and_exact(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    student = student_of(filled(NETWORKS[name]()), **fields)
    path = export.export_onnx(student, tmp_path / "model.onnx").path
    verdict = validation.validate(path, student, make_set().images, ValidateSettings())
    assert verdict.census.products_asked >= sum(layer.weight_quantizer is not None for layer in student.layers)
    assert verdict.census.products_integer == verdict.census.products_asked
    assert verdict.parity.mismatches == 0


def test_channels_without_weights_are_exact(tmp_path: Path) -> None:
    teacher = filled(sequential())
    teacher.get_parameter("0.weight").data[1] = 0.0
    teacher.get_parameter("5.weight").data[2] = 0.0
    student = student_of(teacher)
    path = export.export_onnx(student, tmp_path / "model.onnx").path
    assert validation.validate(path, student, make_set().images).parity.mismatches == 0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_grid_that_is_none_is_an_error_that_names_its_layer(value: float, tmp_path: Path) -> None:
    student = student_of(filled(sequential()))
    site = next(site for site in student.sites if site.kind == "activation" and not site.is_input)
    student.quantizer(site.name).scale.data.fill_(value)
    with pytest.raises(DFQError, match=site.layer):
        export.export_onnx(student, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """Takes a way that depends on the values of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.conv(images)
        return values.flatten(1) if values.sum() > 0 else (values * 2).flatten(1)


class Untranslatable(nn.Module):
    """Uses an operator that ONNX has no counterpart of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(self.conv(images))
        return values.flatten(1)


@pytest.mark.parametrize("kind", [Branching, Untranslatable])
def test_what_cannot_be_written_is_an_error_that_leaves_no_file(kind: type[nn.Module], tmp_path: Path) -> None:
    student = student_of(filled(kind()))
    with pytest.raises(ExportError, match=r"conv|svdvals|trace"):
        export.export_onnx(student, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_several_outputs_are_an_error_that_says_what_to_do() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Any:
            return self.conv(images), images

    with pytest.raises(UnsupportedModelError, match="wrap it"):
        student_of(Two().eval())


def test_a_network_without_weights_is_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="no weights"):
        student_of(nn.Sequential(nn.ReLU(), nn.Flatten()))
