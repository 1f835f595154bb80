"""The network's input is quantized over the range of real pixels, whatever the synthetic ones look like."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.noise import Noise
from dfq_plugin.quantization import quantize
from dfq_plugin.student import Grid, Student
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher


def input_grid(student: Student) -> Grid:
    return student.grid(next(site for site in student.sites if site.is_input))


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_input_range_covers_pixels_and_no_more(preset: str) -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))  # pixels lie in -2..2
    made = Noise()(teacher, facts, GenerationRequest(8, 0))
    wild = replace(made, images=made.images * 10)
    settings = QuantizeSettings.model_validate({"preset": preset})
    grid = input_grid(quantize(teacher, wild, settings))
    low = grid.step * (grid.low - grid.zero_point)
    high = grid.step * (grid.high - grid.zero_point)
    assert low.item() == pytest.approx(-2.0, abs=0.03)
    assert high.item() == pytest.approx(2.0, abs=0.03)
    assert torch.equal(grid.zero_point, grid.zero_point.round())


def test_input_range_follows_the_images_when_pixels_are_not_known() -> None:
    teacher = tiny_teacher()
    made = Noise()(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(8, 0))
    wild = replace(made, images=made.images * 10)
    grid = input_grid(quantize(teacher, wild, QuantizeSettings()))
    assert (grid.step * 127).item() > 20
