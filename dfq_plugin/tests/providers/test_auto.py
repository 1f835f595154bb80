from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pydantic
import pytest
import torch
from torch import nn

from dfq_plugin.providers.auto import Auto
from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.genie import Genie
from dfq_plugin.providers.intraq import IntraQ
from dfq_plugin.providers.psaq import PSAQ
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.providers.zeroq import ZeroQ
from dfq_plugin.synthesis.generators import initialised
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, generate

FAST = Auto(steps=3, batch_size=2)
SMALL = read_facts(tiny_teacher(), (3, 8, 8))
LARGE = replace(SMALL, input_shape=(3, 65, 32))


class TestContract(ProviderContract):
    provider = FAST
    keeps_batches = True


class TestContractWithoutBatchNorm(ProviderContract):
    provider = FAST

    def make_teacher(self) -> tuple[nn.Module, ModelFacts]:
        teacher = initialised(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)), torch.Generator())
        return teacher, read_facts(teacher, (3, 8, 8))


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    assert tuple(generate(FAST, shape=shape, num_samples=3).images.shape) == (3, *shape)


def test_it_is_registered() -> None:
    assert get_provider("auto") is Auto


@pytest.mark.parametrize(
    ("facts", "expected", "reason"),
    [
        pytest.param(replace(SMALL, batchnorm_layers=()), Fractal(), "no BatchNorm layer", id="no_batchnorm"),
        pytest.param(replace(LARGE, batchnorm_layers=()), Fractal(), "no BatchNorm layer", id="large_no_batchnorm"),
        pytest.param(
            replace(LARGE, batchnorm_layers=(), attention_operators=12), PSAQ(), "12 self-attentions", id="attention"
        ),
        pytest.param(replace(LARGE, attention_operators=12), IntraQ(preset="cifar10"), "65 pixels", id="both"),
        pytest.param(replace(LARGE, num_classes=0, classifier=None), ZeroQ(), "no classes", id="large_no_classes"),
        pytest.param(replace(SMALL, num_classes=0, classifier=None), Genie(), "8 pixels", id="small_no_classes"),
        pytest.param(SMALL, Genie(), "2 BatchNorm layers, and 8 pixels", id="small"),
        pytest.param(replace(SMALL, input_shape=(3, 64, 64)), Genie(), "64 pixels", id="just_small"),
        pytest.param(LARGE, IntraQ(preset="cifar10"), "65 pixels", id="large_few_classes"),
        pytest.param(replace(LARGE, num_classes=10), IntraQ(preset="cifar10"), "10 classes", id="ten_classes"),
        pytest.param(replace(LARGE, num_classes=100), IntraQ(preset="cifar100"), "'cifar100'", id="hundred_classes"),
        pytest.param(replace(LARGE, num_classes=101), IntraQ(preset="paper"), "101 classes", id="many_classes"),
        pytest.param(
            replace(LARGE, classifier=None), IntraQ(preset="cifar10", use_mdc=False), "'cifar10'", id="no_classifier"
        ),
    ],
)
def test_choice_follows_what_the_teacher_offers(facts: ModelFacts, expected: Provider, reason: str) -> None:
    choice = Auto().choose(facts)
    assert choice.provider == expected
    assert reason in choice.reason


def test_no_generator_is_trained_where_speed_is_preferred() -> None:
    choice = Auto(prefer="speed").choose(SMALL)
    assert choice.provider == IntraQ(preset="cifar10")
    assert "speed is preferred" in choice.reason
    for attentions in (0, 12):
        bare = replace(SMALL, batchnorm_layers=(), attention_operators=attentions)
        assert Auto(prefer="speed").choose(bare).provider == Fractal()
    assert Auto(prefer="speed").choose(replace(SMALL, num_classes=0, classifier=None)).provider == ZeroQ()
    assert Auto(prefer="speed").choose(LARGE) == Auto().choose(LARGE)


def test_given_settings_reach_the_chosen_method_if_it_has_them() -> None:
    given = Auto(steps=7, learning_rate=0.3, batch_size=5)
    assert given.choose(SMALL).provider == Genie(steps=7, learning_rate=0.3, batch_size=5)
    assert given.choose(LARGE).provider == IntraQ(preset="cifar10", steps=7, learning_rate=0.3, batch_size=5)
    assert given.choose(replace(SMALL, batchnorm_layers=())).provider == Fractal()
    assert Auto(steps=7).choose(SMALL).provider == Genie(steps=7)


def test_images_are_those_of_the_chosen_method() -> None:
    teacher = tiny_teacher()
    made = FAST(teacher, SMALL, GenerationRequest(3, 1))
    assert torch.equal(made.images, Genie(steps=3, batch_size=2)(teacher, SMALL, GenerationRequest(3, 1)).images)


def test_one_log_line_says_what_was_chosen_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nncf.dfq_plugin.synthesize"):
        generate(FAST, num_samples=2)
    (line,) = [record.message for record in caplog.records if record.message.startswith("auto")]
    assert line == "auto: chose 'genie', because " + Auto().choose(SMALL).reason


def test_provenance_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    generate(FAST, num_samples=2).save(tmp_path / "set.safetensors")
    details = SyntheticSet.load(tmp_path / "set.safetensors").provenance.details
    assert details["reason"] == Auto().choose(SMALL).reason
    assert details["chosen"]["provider"] == "genie"
    assert details["chosen"]["settings"] == Genie(steps=3, batch_size=2).model_dump(mode="json")


@pytest.mark.parametrize("field", ["steps", "learning_rate", "batch_size"])
def test_settings_out_of_bounds_are_refused(field: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        Auto(**{field: 0})
