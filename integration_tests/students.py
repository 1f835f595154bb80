"""Students of small networks, made through NNCF, and what is asked of them in several tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.quantization import quantize
from dfq_plugin.student import QuantizerSite, Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher


def make_set(count: int = 24, seed: int = 0) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1
    images = (torch.randn(count, 3, 8, 8, generator=generator) + colour).clamp(-2, 2)
    return SyntheticSet(images, None, None, describe_run("noise", {}, seed, "any"))


def student_of(
    teacher: nn.Module, synthetic: SyntheticSet | None = None, device: str = "ANY", **fields: Any
) -> Student:
    settings = QuantizeSettings.model_validate({"batch_size": 8, **fields})
    return quantize(teacher, synthetic or make_set(), settings, device)


@cache
def tiny_student(bits: int = 8, preset: str = "performance", choice: str = "auto") -> Student:
    """Everything but the image at the same number of bits."""
    fields: dict[str, Any] = {"weight_range": choice, "activation_range": choice, "preset": preset}
    everywhere: dict[str, Any] = {
        "weight_bits": bits,
        "activation_bits": bits,
        "residual_bits": bits,
        "first_last_bits": None,
    }
    return student_of(tiny_teacher(), **fields, **everywhere)


def weights_of(student: Student) -> dict[str, tuple[QuantizerSite, Tensor]]:
    """Each quantized weight in float, by operator."""
    layers = [layer for layer in student.layers if layer.weight_quantizer is not None]
    return {
        layer.operator: (student.site(str(layer.weight_quantizer)), student.network.get_parameter(layer.weight))
        for layer in layers
    }


def by_layer(student: Student, kind: str = "activation") -> dict[str, QuantizerSite]:
    return {site.layer: site for site in student.sites if site.kind == kind}


def distance(student: Student, teacher: nn.Module, images: Tensor) -> float:
    """Error of the logits, relative to their size."""
    with torch.no_grad():
        expected = teacher(images)
        return float((student(images) - expected).norm() / expected.norm())
