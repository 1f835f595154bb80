"""From a few steps of a provider to the time of all of them; the trials of whole stages are in integration_tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from dfq_plugin import trials
from dfq_plugin.config import CalibrationSettings
from dfq_plugin.progress import track
from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.set_cache import is_cached, synthesize
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, Teacher, read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.trials import generation_seconds

SETUP_S, FIRST_S, STEP_S = 5.0, 9.0, 2.0


class Slow(Provider):
    """Takes some seconds to begin, more for its first step than for the others, and counts its steps."""

    name: ClassVar[str] = "slow"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "time"
    taken: ClassVar[list[int]] = []
    clock: ClassVar[SimpleNamespace] = SimpleNamespace(now=0.0)

    steps: int = 100
    batch_size: int = 8

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        self.clock.now += SETUP_S
        batches = -(-request.num_samples // self.batch_size)
        for step in track(batches * self.steps, "Optimising"):
            self.clock.now += STEP_S if step else FIRST_S
            self.taken.append(step)
        images = torch.zeros(request.num_samples, *facts.input_shape)
        return SyntheticSet(images, None, None, self.provenance(facts, request))


@pytest.fixture
def teacher() -> Teacher:
    network = tiny_teacher()
    return Teacher(network, read_facts(network, (3, 8, 8)))


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(Slow, "clock", clock)
    monkeypatch.setattr(Slow, "taken", [])
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(trials, "build_provider", lambda _name, params: Slow(**params))
    monkeypatch.setattr(trials, "is_cached", lambda *_: False)


def seconds(teacher: Teacher, num_samples: int, **params: Any) -> float:
    return generation_seconds(CalibrationSettings(provider="slow", num_samples=num_samples, params=params), teacher)


@pytest.mark.parametrize(
    ("num_samples", "filled"),
    [(8, 1.0), (5, 1.0), (16, 1.0), (12, 12 / 16)],
    ids=["one_batch", "less_than_a_batch", "two_batches", "last_is_half"],
)
def test_few_steps_tell_the_time_of_all(num_samples: int, filled: float, teacher: Teacher) -> None:
    steps = 100 * -(-num_samples // 8)
    assert seconds(teacher, num_samples) == pytest.approx(SETUP_S + steps * STEP_S * filled)
    assert Slow.taken == [0, 1]


def test_what_ends_by_itself_takes_what_it_took(teacher: Teacher) -> None:
    assert seconds(teacher, 8, steps=2) == pytest.approx(SETUP_S + FIRST_S + STEP_S)


def test_what_is_in_the_cache_takes_nothing(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "is_cached", lambda *_: True)
    assert seconds(teacher, 8) == 0.0
    assert Slow.taken == []


def test_cache_is_looked_up_as_a_run_would(teacher: Teacher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DFQ_CACHE_DIR", str(tmp_path))
    settings = CalibrationSettings(provider="noise", num_samples=3)
    assert not is_cached(settings, teacher.facts)
    synthesize(settings, teacher)
    assert is_cached(settings, teacher.facts)
    assert not is_cached(settings.model_copy(update={"num_samples": 4}), teacher.facts)
    assert not is_cached(settings.model_copy(update={"cache": False}), teacher.facts)


class TestPhases:
    """Methods whose steps differ say so."""

    def shares(self, name: str, teacher: Teacher, **params: Any) -> list[tuple[str, float, int]]:
        request = GenerationRequest(8, seed=0)
        phases = build_provider(name, params).phases(teacher.facts, request)
        return [(phase.provider.name, round(phase.share, 6), phase.request.num_samples) for phase in phases]

    def test_most_are_the_same_all_along(self, teacher: Teacher) -> None:
        assert self.shares("zeroq", teacher) == [("zeroq", 1.0, 8)]

    def test_auto_is_what_it_chooses(self, teacher: Teacher) -> None:
        assert self.shares("auto", teacher) == [("genie", 1.0, 8)]

    def test_mixture_is_its_parts(self, teacher: Teacher) -> None:
        parts = [{"provider": "zeroq", "share": 3}, {"provider": "noise"}]
        assert self.shares("mixture", teacher, parts=parts) == [("zeroq", 1.0, 6), ("noise", 1.0, 2)]

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({}, [2 / 3, 1 / 3]),
            ({"low_resolution_share": 0.0}, [1.0]),
            ({"competition": 0.2, "competition_start": 0.75}, [2 / 3, 1 / 12, 1 / 4]),
            ({"competition": 0.2, "low_resolution_share": 0.0}, [0.5, 0.5]),
        ],
    )
    def test_deepinversion_has_half_size_and_rivalry(
        self, params: dict[str, Any], expected: list[float], teacher: Teacher
    ) -> None:
        request = GenerationRequest(8, seed=0)
        phases = build_provider("deepinversion", {"steps": 1200, **params}).phases(teacher.facts, request)
        assert [phase.share for phase in phases] == pytest.approx(expected)
        for phase in phases:  # from its first step on, each does what it is to be measured by
            low, rival = phase.provider.low_steps > 0, phase.provider.first_rival_step == 0  # type: ignore[attr-defined]
            assert not (low and rival)
        assert [phase.provider.first_rival_step == 0 for phase in phases][-1] == ("competition" in params)  # type: ignore[attr-defined]
