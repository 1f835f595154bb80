"""What the base class promises for every provider, whatever the method does."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import pytest
import torch
from torch import nn

from dfq_plugin.errors import ConfigError, ProviderContractError, UnsupportedModelError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.providers.base import (
    LARGEST_SETTING,
    GenerationRequest,
    Provider,
    checkpoint_folder,
    cited,
    request_key,
)
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing import tiny_teacher

REQUEST = GenerationRequest(num_samples=2, seed=0)
Action = Callable[[Any], object]


class Scripted(Provider):
    """Does to the teacher what a test says and returns what a test says."""

    name: ClassVar[str] = "scripted"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"
    actions: ClassVar[list[Action]] = []
    changes: ClassVar[dict[str, Any]] = {}

    steps: int = cited(5, "paper, Sec. 1", "Steps.", ge=1)
    learning_rate: float = cited(0.1, "released code", "Step size.", gt=0)

    def requires(self, facts: ModelFacts) -> None:
        if facts.num_classes > 100:
            msg = "too many classes"
            raise UnsupportedModelError(msg)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        for action in self.actions:
            action(teacher)
        content = {"images": torch.zeros(2, 3, 8, 8), "labels": None, "soft_labels": None, **self.changes}
        return SyntheticSet(**content, provenance=self.provenance(facts, request))


def run(monkeypatch: pytest.MonkeyPatch, teacher: nn.Module, *actions: Action, **changes: Any) -> SyntheticSet:
    monkeypatch.setattr(Scripted, "actions", actions)
    monkeypatch.setattr(Scripted, "changes", changes)
    return Scripted()(teacher, read_facts(teacher, (3, 8, 8)), REQUEST)


class TestRequest:
    @pytest.mark.parametrize("count", [0, -1])
    def test_refuses_less_than_one_image(self, count: int) -> None:
        with pytest.raises(ConfigError, match=f"num_samples must be at least 1, got {count}"):
            GenerationRequest(num_samples=count, seed=0)

    @pytest.mark.parametrize("seed", [-1, 2**63])
    def test_refuses_seed_that_no_generator_takes(self, seed: int) -> None:
        with pytest.raises(ConfigError, match="seed must be in"):
            GenerationRequest(num_samples=1, seed=seed)


class TestSettings:
    @pytest.mark.parametrize("params", [{"steps": 0}, {"step": 1}, {"learning_rate": float("inf")}], ids=str)
    def test_refuse_what_is_not_allowed(self, params: dict[str, Any]) -> None:
        with pytest.raises(pydantic.ValidationError):
            Scripted(**params)

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            Scripted().steps = 3  # type: ignore[misc]

    def test_carry_source_and_description(self) -> None:
        field = Scripted.model_fields["steps"]
        assert field.json_schema_extra == {"source": "paper, Sec. 1"}
        assert field.description == "Steps."
        assert field.default == 5


class TestCall:
    def test_lends_teacher_in_eval_mode_with_gradients_off_for_weights_but_on_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []

        def look(teacher: nn.Module) -> None:
            seen.append(any(module.training for module in teacher.modules()))
            seen.append(any(parameter.requires_grad for parameter in teacher.parameters()))
            seen.append(torch.is_grad_enabled() and not torch.is_inference_mode_enabled())

        teacher = tiny_teacher().train()
        with torch.no_grad():
            run(monkeypatch, teacher, look)
        with torch.inference_mode():
            run(monkeypatch, teacher, look)
        assert seen == [False, False, True] * 2

    def test_gives_teacher_back_as_it_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        teacher = tiny_teacher().train()
        snapshot = Snapshot(teacher)
        run(monkeypatch, teacher)
        assert snapshot.restore() == []

    @pytest.mark.parametrize(
        ("action", "told"),
        [
            pytest.param(lambda t: t.train(), "training mode of ''", id="mode"),
            pytest.param(lambda t: t.fc.register_forward_hook(print), "hooks of 'fc'", id="hook"),
            pytest.param(lambda t: t.bn1.running_mean.add_(1), "values of 'bn1.running_mean'", id="buffer"),
            pytest.param(lambda t: t.requires_grad_(True), "requires_grad of 'conv1.weight'", id="flag"),
        ],
    )
    def test_blames_provider_and_restores_teacher_when_it_was_left_changed(
        self, monkeypatch: pytest.MonkeyPatch, action: Action, told: str
    ) -> None:
        teacher = tiny_teacher()
        snapshot = Snapshot(teacher)
        with pytest.raises(ProviderContractError, match=f"'scripted' left the teacher changed: {told}"):
            run(monkeypatch, teacher, action)
        assert snapshot.restore() == []

    def test_restores_teacher_when_provider_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(teacher: nn.Module) -> None:
            teacher.train().register_forward_hook(lambda *_: None)
            raise KeyboardInterrupt

        teacher = tiny_teacher()
        snapshot = Snapshot(teacher)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, teacher, fail)
        assert snapshot.restore() == []

    def test_gives_global_random_state_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        states = torch.get_rng_state(), random.getstate()
        run(monkeypatch, tiny_teacher(), lambda _: (torch.rand(1), random.random(), torch.manual_seed(3))[0])  # noqa: S311
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            pytest.param({"images": torch.zeros(3, 3, 8, 8)}, r"images of shape \(3, 3, 8, 8\)", id="count"),
            pytest.param({"images": torch.zeros(2, 3, 8, 4)}, r"expected \(2, 3, 8, 8\)", id="size"),
            pytest.param({"images": torch.zeros(2, 3, 8, 8).double()}, "images of type torch.float64", id="type"),
            pytest.param({"images": torch.full((2, 3, 8, 8), torch.inf)}, "not finite", id="infinite"),
            pytest.param({"images": torch.zeros(2, 3, 8, 8, requires_grad=True)}, "expected detached", id="grad"),
            pytest.param({"images": torch.zeros(2, 3, 8, 8, device="meta")}, "on device 'meta'", id="device"),
            pytest.param({"labels": torch.zeros(3).long()}, r"labels of shape \(3,\)", id="label_count"),
            pytest.param({"labels": torch.zeros(2)}, "labels of type torch.float32", id="label_type"),
            pytest.param({"labels": torch.tensor([0, 4])}, r"labels outside 0\.\.3", id="label_high"),
            pytest.param({"labels": torch.tensor([0, -1])}, r"labels outside 0\.\.3", id="label_low"),
            pytest.param({"soft_labels": torch.zeros(2, 3)}, r"soft_labels .* expected \(2, 4\)", id="soft_labels"),
        ],
    )
    def test_blames_provider_when_result_is_wrong(
        self, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(ProviderContractError, match=f"'scripted' returned .*{told}"):
            run(monkeypatch, tiny_teacher(), **changes)

    def test_takes_result_with_labels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        changes = {"labels": torch.tensor([0, 3]), "soft_labels": torch.full((2, 4), 0.25)}
        assert len(run(monkeypatch, tiny_teacher(), **changes)) == 2

    def test_blames_provider_when_result_is_no_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Scripted, "generate", lambda *_: torch.zeros(2, 3, 8, 8))
        with pytest.raises(ProviderContractError, match="returned a Tensor, expected a SyntheticSet"):
            run(monkeypatch, tiny_teacher())

    def test_asks_first_whether_the_teacher_will_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UnsupportedModelError, match="too many classes"):
            run(monkeypatch, tiny_teacher(num_classes=101), lambda _: pytest.fail("generate was called"))

    def test_keeps_batches_of_each_request_apart(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        seen: list[Path | None] = []
        teacher = tiny_teacher()
        facts = read_facts(teacher, (3, 8, 8))
        monkeypatch.setattr(Scripted, "generate", _remember(Scripted.generate, seen))
        requests = [GenerationRequest(2, seed, tmp_path) for seed in (0, 1, 0)]
        for request in requests:
            Scripted()(teacher, facts, request)
        assert seen[0] == seen[2] == checkpoint_folder(Scripted(), facts, requests[0])
        assert seen[0] != seen[1]
        assert {folder.parent for folder in seen if folder is not None} == {tmp_path}


def _remember(generate: Callable[..., SyntheticSet], seen: list[Path | None]) -> Callable[..., SyntheticSet]:
    def wrapped(provider: Provider, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        seen.append(request.checkpoint_folder)
        return generate(provider, teacher, facts, request)

    return wrapped


@pytest.mark.parametrize(
    ("provider", "params", "pointer"),
    [
        ("zeroq", {"learning_rate": 1e38}, "learning_rate"),
        ("genie", {"generator_learning_rate": 1e300}, "generator_learning_rate"),
        ("mixture", {"parts": [{"provider": "noise", "share": 1e308}]}, "parts/0/share"),
        ("mixture", {"parts": [{"provider": "zeroq", "params": {"learning_rate": 1e38}}]}, "learning_rate"),
        ("gdfq", {"batchnorm_weight": 2e30}, "batchnorm_weight"),
    ],
)
def test_settings_near_the_end_of_single_precision_are_one_message(
    provider: str, params: dict[str, Any], pointer: str
) -> None:
    told = rf"params/{pointer}: .*(at most 1e\+30|less than or equal to 1000000)"
    with pytest.raises(ConfigError, match=told) as raised:
        build_provider(provider, params)
    assert str(raised.value).count("/calibration/params") == 1


def test_largest_step_size_diverges_with_a_message() -> None:
    provider = build_provider("zeroq", {"learning_rate": LARGEST_SETTING, "steps": 3})
    teacher = tiny_teacher()
    with pytest.raises(ProviderContractError, match="the loss is not finite"):
        provider(teacher, read_facts(teacher, (3, 8, 8)), REQUEST)


class TestRequestKey:
    def test_is_the_same_for_the_same_request_wherever_batches_are_kept(self, tmp_path: Path) -> None:
        facts = read_facts(tiny_teacher(), (3, 8, 8))
        kept = GenerationRequest(2, 0, checkpoint_folder=tmp_path)
        assert request_key(Scripted(), facts, REQUEST) == request_key(Scripted(), facts, kept)

    def test_differs_in_everything_that_the_images_depend_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = read_facts(tiny_teacher(), (3, 8, 8))
        normalised = read_facts(tiny_teacher(), (3, 8, 8), mean=(0, 0, 0), std=(1, 1, 1))
        larger = read_facts(tiny_teacher(), (3, 16, 16))
        other = read_facts(tiny_teacher(size=9), (3, 8, 8))
        keys = [
            request_key(Scripted(), facts, REQUEST),
            request_key(Scripted(steps=6), facts, REQUEST),
            request_key(Scripted(), normalised, REQUEST),
            request_key(Scripted(), larger, REQUEST),
            request_key(Scripted(), other, REQUEST),
            request_key(Scripted(), facts, GenerationRequest(3, 0)),
            request_key(Scripted(), facts, GenerationRequest(2, 1)),
        ]
        monkeypatch.setattr(Scripted, "revision", 2)
        keys.append(request_key(Scripted(), facts, REQUEST))
        monkeypatch.setattr(Scripted, "name", "other")
        keys.append(request_key(Scripted(), facts, REQUEST))
        assert len(set(keys)) == len(keys)
