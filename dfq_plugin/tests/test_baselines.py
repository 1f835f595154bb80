"""Baselines: which images they take, what they cost when nobody asks, and what happens when one cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfq_plugin import finetuning, quantization
from dfq_plugin.baselines import baseline_sets, measure_baselines
from dfq_plugin.config import Config, FinetuneSettings, load_config
from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.evidence import choose_evidence
from dfq_plugin.images import LabelledImages
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher, read_facts
from dfq_plugin.testing import tiny_teacher


@pytest.fixture
def teacher() -> Teacher:
    network = tiny_teacher()
    return Teacher(network, read_facts(network, (3, 8, 8), mean=[0.5] * 3, std=[0.25] * 3))


@pytest.fixture
def photos(tmp_path: Path) -> str:
    pixels = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_file({"images": pixels, "labels": torch.arange(12) % 4}, tmp_path / "photos.safetensors")
    return f"safetensors:{tmp_path / 'photos.safetensors'}"


def config(*names: str, **more: Any) -> Config:
    return load_config(
        {
            "model": {"source": "python:some.module:factory"},
            "input_shape": [3, 8, 8],
            "calibration": {"provider": "noise", "num_samples": 8, "seed": 4},
            **more,
            "validate": {"baselines": list(names), **more.get("validate", {})},
        }
    )


@pytest.mark.parametrize("name", ["intraq", "folder:", "noise ", "safetensors"])
def test_other_names_are_refused(name: str) -> None:
    allowed = r"/validate/baselines/0: got .*, expected 'noise', 'folder:DIR' or 'safetensors:FILE'"
    with pytest.raises(ConfigError, match=allowed):
        config(name)


def test_nothing_is_made_unless_it_is_asked_for(teacher: Teacher) -> None:
    assert baseline_sets(config(), teacher) == {}
    assert measure_baselines(config(), teacher, {}, LabelledImages(torch.zeros(1, 3, 8, 8), None, "x")) == {}


def test_noise_has_as_many_images_as_the_set_and_its_seed(teacher: Teacher) -> None:
    (images,) = baseline_sets(config("noise", "noise"), teacher).values()
    assert (images.provenance.provider, images.provenance.seed, len(images)) == ("noise", 4, 8)


def test_real_images_are_taken_as_far_as_they_last(teacher: Teacher, photos: str) -> None:
    made = baseline_sets(config(photos), teacher)[photos]
    assert (len(made), made.labels is not None, made.pixel_range) == (8, True, teacher.facts.pixel_range)
    many = config(photos, calibration={"provider": "noise", "num_samples": 99})
    assert len(baseline_sets(many, teacher)[photos]) == 12


def test_half_of_the_images_that_quality_is_measured_on_are_left_for_that(teacher: Teacher, photos: str) -> None:
    job = config(photos, validate={"images": photos})
    made = baseline_sets(job, teacher)[photos]
    evidence = choose_evidence(job, teacher, torch.zeros(1, 3, 8, 8), made.images)
    assert evidence is not None
    assert (len(made), len(evidence.images)) == (6, 6)
    assert evidence.source.endswith("without 6 used for calibration")
    assert not any(torch.equal(image, other) for image in evidence.images for other in made.images)


def test_missing_images_are_found_before_the_work(teacher: Teacher) -> None:
    with pytest.raises(InputError, match="no folder"):
        baseline_sets(config("folder:nowhere"), teacher)


class TestMeasuring:
    @pytest.fixture
    def calls(self, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Stand-ins for the costly stages, which write down what they were given."""
        seen: dict[str, Any] = {}

        def quantize(network: nn.Module, images: SyntheticSet, settings: Any, device: str) -> nn.Module:
            seen["quantize"] = (network, images, settings, device)
            return teacher.network

        def learn(_network: nn.Module, _student: nn.Module, images: SyntheticSet, settings: FinetuneSettings) -> None:
            seen["finetune"] = (images, settings)

        monkeypatch.setattr(quantization, "quantize", quantize)
        monkeypatch.setattr(finetuning, "finetune", learn)
        return seen

    def test_settings_are_those_of_the_student(self, teacher: Teacher, calls: dict[str, Any]) -> None:
        job = config("noise", quantize={"weight_bits": 3}, finetune={"epochs": 7}, target_device="CPU")
        sets = baseline_sets(job, teacher)
        evidence = LabelledImages(torch.randn(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64), "folder:photos")
        found = measure_baselines(job, teacher, sets, evidence)["noise"]
        assert calls["quantize"] == (teacher.network, sets["noise"], job.quantize, "CPU")
        assert calls["finetune"] == (sets["noise"], job.finetune)
        assert found.quality is not None
        assert (found.images, found.quality.agreement, found.problem) == (8, 100.0, "")
        assert found.quality.accuracy is not None

    def test_epochs_are_as_long_as_those_of_an_online_provider(self, teacher: Teacher, calls: dict[str, Any]) -> None:
        online = {"provider": "gdfq", "num_samples": 8, "params": {"batch_size": 5, "steps_per_epoch": 9}}
        job = config("noise", calibration=online, finetune={"epochs": 2, "batch_size": 64})
        measure_baselines(job, teacher, baseline_sets(job, teacher), LabelledImages(torch.randn(2, 3, 8, 8), None, "x"))
        settings = calls["finetune"][1]
        assert (settings.epochs, settings.batch_size, settings.steps_per_epoch) == (2, 5, 9)

    def test_nothing_is_made_when_there_is_nothing_to_measure_on(self, teacher: Teacher, calls: dict[str, Any]) -> None:
        job = config("noise")
        assert measure_baselines(job, teacher, baseline_sets(job, teacher), None) == {}
        assert calls == {}

    @pytest.mark.usefixtures("calls")
    def test_baseline_that_cannot_be_made_says_why_and_costs_nothing_else(
        self, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            msg = "cross_entropy needs labels"
            raise InputError(msg)

        monkeypatch.setattr(finetuning, "finetune", refuse)
        job = config("noise")
        evidence = LabelledImages(torch.randn(2, 3, 8, 8), None, "x")
        found = measure_baselines(job, teacher, baseline_sets(job, teacher), evidence)["noise"]
        assert (found.quality, found.problem) == (None, "cross_entropy needs labels")
