"""The checks for authors of providers find what they are there to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.errors import ProviderContractError
from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts
from dfq_plugin.testing import ProviderContract


class Sound(Provider):
    """A provider without fault that keeps its batches of one image."""

    name: ClassVar[str] = "sound"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"

    scale: float = cited(1.0, "here", "Factor on the noise.")

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        store, batches = BatchStore(request.checkpoint_folder), []
        for index in range(request.num_samples):
            found = store.load(index) or {"images": self.draw(teacher, facts, request.seed + 1000 * index)}
            store.save(index, found)
            batches.append(found["images"])
        return SyntheticSet(torch.cat(batches), None, None, self.provenance(facts, request))

    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:  # noqa: ARG002
        return torch.randn(1, *facts.input_shape, generator=torch.Generator().manual_seed(seed)) * self.scale


class TestSound(ProviderContract):
    provider = Sound()
    keeps_batches = True


class UsesGlobalRandomState(Sound):
    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:  # noqa: ARG002
        return torch.randn(1, *facts.input_shape)


class IgnoresSeed(Sound):
    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:
        return super().draw(teacher, facts, seed // 1000)


class LeavesHook(Sound):
    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:
        teacher.register_forward_hook(lambda *_: None)
        return super().draw(teacher, facts, seed)


class NeedsGradients(Sound):
    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:
        return super().draw(teacher, facts, seed) * (2.0 if torch.is_grad_enabled() else 1.0)


class MakesTooMany(Sound):
    def draw(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> Tensor:
        return super().draw(teacher, facts, seed).repeat(2, 1, 1, 1)


class DependsOnOrder(Sound):
    """Draws all batches from one generator, so that a resumed run draws other numbers."""

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        store, batches = BatchStore(request.checkpoint_folder), []
        generator = torch.Generator().manual_seed(request.seed)
        for index in range(request.num_samples):
            found = store.load(index)
            if found is None:
                found = {"images": torch.randn(1, *facts.input_shape, generator=generator)}
                store.save(index, found)
            batches.append(found["images"])
        return SyntheticSet(torch.cat(batches), None, None, self.provenance(facts, request))


class CitesNothing(Sound):
    steps: int = 5


class HidesSettings(Sound):
    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        return Sound(scale=2.0)(teacher, facts, request)


def check(provider: Provider, *, keeps_batches: bool = True) -> ProviderContract:
    made = type("Check", (ProviderContract,), {"provider": provider, "keeps_batches": keeps_batches})
    contract: ProviderContract = made()
    return contract


@pytest.mark.parametrize(
    ("provider", "name", "error"),
    [
        pytest.param(
            UsesGlobalRandomState(),
            "test_same_seed_gives_same_images_when_global_random_state_differs",
            AssertionError,
            id="global_random_state",
        ),
        pytest.param(IgnoresSeed(), "test_other_seed_gives_other_images", AssertionError, id="seed"),
        pytest.param(LeavesHook(), "test_teacher_is_given_back_as_it_came", ProviderContractError, id="hook"),
        pytest.param(MakesTooMany(), "test_result_is_what_was_asked_for", ProviderContractError, id="count"),
        pytest.param(HidesSettings(), "test_result_is_what_was_asked_for", AssertionError, id="provenance"),
        pytest.param(
            CitesNothing(),
            "test_every_setting_says_what_it_is_and_where_its_default_comes_from",
            AssertionError,
            id="citation",
        ),
    ],
)
def test_fault_is_found(provider: Provider, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        getattr(check(provider), name)()


@pytest.mark.parametrize(
    ("provider", "keeps_batches"), [(DependsOnOrder(), True), (Sound(), False)], ids=["order", "says_it_keeps_none"]
)
def test_fault_in_resuming_is_found(provider: Provider, keeps_batches: bool, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check(provider, keeps_batches=keeps_batches).test_resumed_run_equals_unbroken_one(tmp_path)


def test_base_class_hides_whether_caller_has_gradients_on() -> None:
    check(NeedsGradients()).test_images_are_the_same_when_caller_runs_without_gradients()


def test_fault_is_found_when_global_random_state_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(provider: Sound, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        torch.rand(1)
        return provider.generate(teacher, facts, request)

    monkeypatch.setattr(Sound, "__call__", call)
    with pytest.raises(AssertionError, match="random state was moved"):
        check(Sound()).test_global_random_state_is_untouched()


def test_fault_is_found_when_settings_do_not_survive_json(monkeypatch: pytest.MonkeyPatch) -> None:
    dump: Callable[..., dict[str, Any]] = Sound.model_dump
    monkeypatch.setattr(Sound, "model_dump", lambda self, **options: {**dump(self, **options), "scale": 3.0})
    with pytest.raises(AssertionError, match="not the same"):
        check(Sound()).test_settings_survive_json()
