"""Students that NNCF made, trained on batches of a generator that learns along, and exported afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nncf
import pytest
import torch
from torch import nn

from dfq_plugin import export, validation
from dfq_plugin.config import ExportSettings, FinetuneSettings, QuantizeSettings, ValidateSettings
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.network_state import Snapshot
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.online import OnlineProvider
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.quantization import quantize
from dfq_plugin.student import Student
from dfq_plugin.synthesis.generator_source import GeneratorSource
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

pytestmark = pytest.mark.usefixtures("kernels")
GAN = {"losses": {"cross_entropy": 1.0, "kl": 1.0}, "temperature": 4.0, "kl_reduction": "mean"}
RECIPES: dict[str, dict[str, Any]] = {
    "gdfq": GAN,
    "qimera": GAN,
    "adadfq": {"losses": {"disagreement": 1.0}, "temperature": 4.0},
}


def noise(count: int = 64, seed: int = 0) -> SyntheticSet:
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return SyntheticSet(images, None, None, describe_run("noise", {}, seed, "any"))


@pytest.fixture(scope="module")
def student(kernels: object) -> Student:  # noqa: ARG001 - built first
    """Three bits everywhere but at the ends; every test takes a copy."""
    return quantize(tiny_teacher(), noise(), QuantizeSettings(weight_bits=3, activation_bits=3))


def run(
    name: str, student: Student, teacher: nn.Module | None = None, checkpoint: Path | None = None, **fields: Any
) -> History:
    teacher = teacher or tiny_teacher()
    provider = build_provider(name, {"steps_per_epoch": 8, "warmup_epochs": 1, "batch_size": 8})
    assert isinstance(provider, OnlineProvider)
    source = provider.source(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(1, 0))
    settings = FinetuneSettings.model_validate({"epochs": 4, **RECIPES[name], **fields})
    return finetune(teacher, student, source, settings, checkpoint)


@pytest.mark.parametrize("name", RECIPES)
def test_student_and_generator_learn_together(student: Student, name: str) -> None:
    tuned, teacher = copy.deepcopy(student), tiny_teacher().train()
    before = Snapshot(teacher)
    history = run(name, tuned, teacher, epochs=12)
    assert before.restore() == []
    assert len(history.losses) == 12
    assert all(len(values) == 13 for key, values in history.curves.items() if key.startswith("generator."))
    assert history.losses[-1] < history.losses[0]
    before_and_after = (dict(network.named_parameters()) for network in (student, tuned))
    was, now = (
        {name: value for name, value in values.items() if value.is_floating_point()} for values in before_and_after
    )
    assert any(not torch.equal(was[name], now[name]) for name in was if name.endswith("weight"))


def test_adaptability_is_kept_for_the_report(student: Student) -> None:
    curve = run("adadfq", copy.deepcopy(student)).curves["generator.adaptability"]
    assert len(curve) == 5
    assert all(0 < value < 1 for value in curve)


@pytest.mark.parametrize("name", RECIPES)
def test_killed_run_goes_on_bit_for_bit(
    student: Student, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, killed, resumed = (copy.deepcopy(student) for _ in range(3))
    expected = run(name, unbroken)
    steps, real = [0], GeneratorSource.next_batch

    def counted(self: GeneratorSource, student: nn.Module) -> Any:
        steps[0] += 1
        if steps[0] == 8 + 8 + 8 + 3:
            raise KeyboardInterrupt
        return real(self, student)

    place = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(GeneratorSource, "next_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        run(name, killed, checkpoint=place)
    assert run(name, resumed, checkpoint=place) == expected
    assert steps[0] == 8 + 8 + 8 + 3 + 8 + 8  # the warm-up is not done again
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in unbroken.state_dict().items())


def test_trained_student_becomes_an_integer_file(student: Student, tmp_path: Path) -> None:
    tuned = copy.deepcopy(student)
    run("adadfq", tuned)
    path = tmp_path / "model.onnx"
    export.export_onnx(tuned, path, ExportSettings())
    verdict = validation.validate(path, tuned, noise(16, seed=1).images, ValidateSettings(latency_runs=0))
    assert verdict.parity.mismatches == 0
    assert verdict.census.float == 0


@pytest.mark.parametrize("name", RECIPES)
def test_fixed_set_of_an_online_provider_serves_plain_nncf(name: str) -> None:
    teacher = tiny_teacher()
    provider = build_provider(name, {"steps": 4})
    made = provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(12, 0))
    quantized = nncf.quantize(tiny_teacher(), made.to_nncf(batch_size=4), subset_size=3)
    assert quantized(made.images).shape == (12, 4)
