"""No images at all: what is handed out are stand-ins, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.none import NoImages
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract


class TestContract(ProviderContract):
    provider = NoImages()


@pytest.fixture
def stand_ins() -> SyntheticSet:
    teacher = tiny_teacher()
    return NoImages()(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(4, seed=3))


def test_its_images_are_fractals_under_its_own_name(stand_ins: SyntheticSet) -> None:
    teacher = tiny_teacher()
    drawn = Fractal()(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(4, seed=3))
    assert torch.equal(stand_ins.images, drawn.images)
    assert stand_ins.provenance.provider == "none"


def test_its_set_says_that_nothing_is_to_be_learned_from_it(stand_ins: SyntheticSet, tmp_path: Path) -> None:
    stand_ins.save(tmp_path / "set.safetensors")
    assert not stand_ins.informative
    assert not SyntheticSet.load(tmp_path / "set.safetensors").informative


def test_other_sets_are_informative(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    drawn = Fractal()(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(2, seed=3))
    drawn.save(tmp_path / "set.safetensors")
    assert drawn.informative
    assert SyntheticSet.load(tmp_path / "set.safetensors").informative
