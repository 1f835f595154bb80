"""What all generator methods share: sizes of images, resuming, sources, and students to play against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.providers import online
from dfq_plugin.providers.adadfq import AdaDFQ
from dfq_plugin.providers.base import GenerationRequest, frozen
from dfq_plugin.providers.gdfq import GDFQ
from dfq_plugin.providers.online import OnlineProvider
from dfq_plugin.providers.qimera import Qimera
from dfq_plugin.synthesis.generator_source import GeneratorSource
from dfq_plugin.synthesis.quick_student import QuickStudent
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing import tiny_teacher

METHODS: dict[str, type[OnlineProvider]] = {"gdfq": GDFQ, "qimera": Qimera, "adadfq": AdaDFQ}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> type[OnlineProvider]:
    return METHODS[request.param]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 20), (4, 33, 70)])
def test_images_may_have_any_size_and_any_channels(method: type[OnlineProvider], shape: tuple[int, int, int]) -> None:
    teacher = tiny_teacher(channels=shape[0], size=8)
    found = method(steps=1, batch_size=2)(teacher, read_facts(teacher, shape), GenerationRequest(3, 0))
    assert found.images.shape == (3, *shape)


@pytest.mark.parametrize(
    ("shape", "network", "large"),
    [
        ((3, 32, 32), "auto", False),
        ((3, 64, 64), "auto", False),
        ((3, 65, 64), "auto", True),
        ((3, 224, 224), "auto", True),
        ((3, 224, 224), "small", False),
        ((3, 32, 32), "large", True),
    ],
)
def test_network_follows_the_size_of_the_images(shape: tuple[int, int, int], network: Any, large: bool) -> None:
    facts = ModelFacts(shape, 10, None, None, ("bn",), "fc", "digest")
    assert GDFQ(network=network).is_large(facts) is large


def test_killed_generation_goes_on_with_the_same_result(
    method: type[OnlineProvider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))
    provider = method(steps=7, steps_per_epoch=2, batch_size=2)
    unbroken = provider(teacher, facts, GenerationRequest(3, 0))
    steps, real = [0], GeneratorSource.next_batch

    def counted(self: GeneratorSource, student: nn.Module) -> Any:
        steps[0] += 1
        if steps[0] == 6:
            raise KeyboardInterrupt
        return real(self, student)

    request = GenerationRequest(3, 0, checkpoint_folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(GeneratorSource, "next_batch", counted)
        with pytest.raises(KeyboardInterrupt):
            provider(teacher, facts, request)
        resumed = provider(teacher, facts, request)
    assert steps[0] == 6 + 3  # the fifth step was not kept
    assert torch.equal(resumed.images, unbroken.images)


def test_activation_ranges_of_the_quick_student_rest_after_four_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    following: list[bool] = []
    real = QuickStudent.forward

    def noted(self: QuickStudent, images: torch.Tensor) -> torch.Tensor:
        following.append(self.calibrating)
        return real(self, images)

    monkeypatch.setattr(QuickStudent, "forward", noted)
    teacher = tiny_teacher()
    provider = AdaDFQ(steps=10, steps_per_epoch=2, batch_size=4)
    provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(2, 0))
    assert following == [True] * 9 + [False] * 2  # the first one makes the student


def test_source_has_the_epochs_and_warm_up_of_the_settings(method: type[OnlineProvider]) -> None:
    teacher = tiny_teacher()
    provider = method(steps_per_epoch=3, warmup_epochs=2, batch_size=5)
    source = provider.source(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(1, 0))
    assert source.batches_per_epoch == 3
    with frozen(teacher):
        source.prepare(tiny_teacher())
        batch = source.next_batch(tiny_teacher())
    assert len(batch) == 5
    assert all(len(values) == 3 for values in source.curves().values())  # two epochs of warm-up and a bit


def test_sources_of_one_seed_are_alike_whatever_the_global_random_state(method: type[OnlineProvider]) -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))

    def first(seed: int, noise: int) -> torch.Tensor:
        with torch.random.fork_rng(), frozen(teacher):
            torch.manual_seed(noise)
            return method().source(teacher, facts, GenerationRequest(1, seed)).next_batch(teacher).images

    assert torch.equal(first(0, 1), first(0, 2))
    assert not torch.equal(first(0, 1), first(1, 1))


def test_a_fixed_set_is_kept_in_one_file_while_it_is_made(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    provider = GDFQ(steps=4, steps_per_epoch=2, batch_size=2)
    with frozen(teacher):
        provider.generate(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(2, 0, checkpoint_folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["batch_000000.safetensors"]
    kept = BatchStore(tmp_path).load(0)
    assert kept is not None
    assert int(kept["source.optimizer.step"]) == 4


def test_papers_share_their_defaults() -> None:
    assert online.CALIBRATION_EPOCHS == 4
    for method in METHODS.values():
        provider = method()
        assert (provider.learning_rate, provider.steps_per_epoch, provider.warmup_epochs) == (1e-3, 200, 4)
        assert provider.milestones == (100, 200, 300)
        assert provider.batch_size == 16
