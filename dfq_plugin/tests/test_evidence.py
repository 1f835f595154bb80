"""Quality is measured on the images that were named, else on fresh ones, and never on the calibration set."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfq_plugin import evidence
from dfq_plugin.config import CalibrationSettings, Config, load_config
from dfq_plugin.evidence import choose_evidence
from dfq_plugin.images import LabelledImages
from dfq_plugin.set_cache import synthesize
from dfq_plugin.teacher import ModelFacts, Teacher, read_facts
from dfq_plugin.testing import tiny_teacher


@pytest.fixture
def teacher() -> Teacher:
    network = tiny_teacher()
    return Teacher(network, read_facts(network, (3, 8, 8)))


def config(**validate: Any) -> Config:
    return load_config(
        {
            "model": {"source": "python:some.module:factory"},
            "input_shape": [3, 8, 8],
            "calibration": {"provider": "noise", "num_samples": 6, "seed": 4, "cache": False},
            "validate": validate,
        }
    )


CALIBRATION = torch.zeros(1, 3, 8, 8)


def test_images_that_were_named_are_taken(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    named = LabelledImages(torch.ones(2, 3, 8, 8), torch.tensor([0, 1]), "folder:photos")

    def load(source: str, facts: ModelFacts) -> LabelledImages:
        assert (source, facts) == ("folder:photos", teacher.facts)
        return named

    monkeypatch.setattr(evidence, "load_images", load)
    monkeypatch.setattr(evidence, "synthesize", lambda *_: pytest.fail("made images although some were named"))
    assert choose_evidence(config(images="folder:photos", held_out=9), teacher, CALIBRATION) is named


@pytest.mark.parametrize("labelled", [False, True])
def test_named_images_that_calibrated_the_student_are_left_out(
    labelled: bool, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.stack([torch.full((3, 8, 8), float(value)) for value in range(4)])
    labels = torch.tensor([3, 2, 1, 0]) if labelled else None
    monkeypatch.setattr(evidence, "load_images", lambda *_: LabelledImages(images, labels, "folder:photos"))
    found = choose_evidence(config(images="folder:photos"), teacher, images[[2, 0]])
    assert found is not None
    assert torch.equal(found.images, images[[1, 3]])
    assert found.source == "folder:photos, without 2 used for calibration"
    assert (found.labels is not None) == labelled
    assert found.labels is None or found.labels.tolist() == [2, 0]


def test_nothing_is_given_when_every_named_image_calibrated_the_student(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.ones(2, 3, 8, 8)
    monkeypatch.setattr(evidence, "load_images", lambda *_: LabelledImages(images, None, "folder:photos"))
    assert choose_evidence(config(images="folder:photos"), teacher, images[:1]) is None


def test_fresh_images_differ_from_every_image_of_the_calibration_set(teacher: Teacher) -> None:
    job = config(held_out=5)
    used = synthesize(job.calibration, teacher).images
    found = choose_evidence(job, teacher, used)
    assert found is not None
    assert found.images.shape == (5, 3, 8, 8)
    assert not any(torch.equal(fresh, image) for fresh in found.images for image in used)


def test_fresh_images_are_of_the_same_provider_and_the_next_seed(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CalibrationSettings] = []

    def remember(settings: CalibrationSettings, of: Teacher) -> Any:
        asked.append(settings)
        return synthesize(settings, of)

    monkeypatch.setattr(evidence, "synthesize", remember)
    job = config(held_out=3)
    choose_evidence(job, teacher, CALIBRATION)
    assert asked == [job.calibration.model_copy(update={"seed": 5, "num_samples": 3})]
    assert job.calibration.seed == 4


def test_fresh_images_say_what_they_are_and_have_no_labels(teacher: Teacher) -> None:
    found = choose_evidence(config(held_out=3), teacher, CALIBRATION)
    assert found is not None
    assert found.source == "3 fresh synthetic images (noise, seed 5): optimistic"
    assert found.labels is None


def test_provider_that_makes_the_same_images_whatever_the_seed_has_no_fresh_ones(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = config(held_out=3)
    always = synthesize(job.calibration, teacher)
    monkeypatch.setattr(evidence, "synthesize", lambda *_: always)
    assert choose_evidence(job, teacher, always.images) is None


def test_provider_that_reads_files_has_no_fresh_images(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "synthesize", lambda *_: pytest.fail("asked a folder for more images"))
    job = config(held_out=3)
    from_files = job.calibration.model_copy(update={"provider": "folder", "params": {"path": "photos"}})
    assert choose_evidence(job.model_copy(update={"calibration": from_files}), teacher, CALIBRATION) is None


def test_none_is_given_when_none_is_wanted(teacher: Teacher) -> None:
    assert choose_evidence(config(held_out=0), teacher, CALIBRATION) is None
