"""The hooks on students that NNCF made: features, calibration, losses, checkpoints, and a step of NNCF's own loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nncf.quantization.algorithms.pipeline import Pipeline
from torch import Tensor, nn

from dfq_plugin.batches import Batch, FixedBatches
from dfq_plugin.config import FinetuneSettings, QuantizeSettings
from dfq_plugin.finetuning import FinetuneHooks, finetune
from dfq_plugin.finetuning.calibration import following_ranges
from dfq_plugin.finetuning.features import compared_layers
from dfq_plugin.quantization import nncf_steps, quantize
from dfq_plugin.quantization.finetune_step import FinetuneStep
from dfq_plugin.quantization.low_bit_step import LowBitStep
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher

pytestmark = pytest.mark.usefixtures("kernels")


def make_set(count: int = 64, seed: int = 0, scale: float = 1.0) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    images = scale * torch.randn(count, 3, 8, 8, generator=generator)
    labels = tiny_teacher()(images).argmax(dim=1)
    return SyntheticSet(images, labels, None, describe_run("noise", {}, seed, "any"))


@pytest.fixture(scope="module", params=["performance", "mixed"])
def student(request: pytest.FixtureRequest, kernels: object) -> Student:  # noqa: ARG001 - built first
    """Three bits everywhere but at the ends; every test takes a copy."""
    return quantize(
        tiny_teacher(), make_set(), QuantizeSettings(weight_bits=3, activation_bits=3, preset=request.param)
    )


def settings(**fields: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate({"epochs": 2, "batch_size": 16, "augment": "none", **fields})


LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"losses": {"cross_entropy": 1.0}},
    "disagreement": {"losses": {"disagreement": 1.0}, "temperature": 2.0},
    "feature": {"losses": {"feature": 1.0}},
    "attention": {"losses": {"attention": 1.0}, "feature_layers": ("relu1", "relu2")},
    "several": {"losses": {"kl": 1.0, "mse": 0.1, "feature": 0.1}, "feature_layers": ("bn1",)},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls(student: Student, loss: str) -> None:
    tuned = copy.deepcopy(student)
    history = finetune(tiny_teacher(), tuned, make_set(), settings(epochs=10, lr=3e-3, **LOSSES[loss]))
    assert history.losses[-1] < history.losses[0]


def test_features_of_an_eight_bit_student_are_those_of_the_teacher() -> None:
    teacher = tiny_teacher()
    eight = quantize(teacher, make_set(), QuantizeSettings())
    images = make_set(8).images
    with torch.no_grad(), compared_layers(teacher, eight, ("bn1", "relu2")) as (of_teacher, of_student):
        teacher(images)
        eight(images)
    for expected, found in zip(of_teacher, of_student, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).norm() < 0.05 * expected.norm()


def steps_of(student: Student, *, inputs: bool) -> dict[str, Tensor]:
    sites = [site for site in student.sites if site.kind == "activation" and site.is_input == inputs]
    return {site.name: student.grid(site).step.clone() for site in sites}


def test_ranges_follow_the_images_and_then_rest(student: Student) -> None:
    tuned = copy.deepcopy(student)
    wide = make_set(scale=10.0).images
    with torch.no_grad(), following_ranges(tuned):
        for batch in wide.split(16):
            tuned(batch)
    before, after = steps_of(student, inputs=False), steps_of(tuned, inputs=False)
    assert all(after[name] > 2 * before[name] for name in before)
    assert all(torch.equal(s, steps_of(student, inputs=True)[name]) for name, s in steps_of(tuned, inputs=True).items())
    tuned(100 * wide)
    assert all(torch.equal(step, after[name]) for name, step in steps_of(tuned, inputs=False).items())


def test_nothing_clips_where_the_ranges_are_those_of_the_very_images(student: Student) -> None:
    tuned = copy.deepcopy(student)
    images = make_set(16).images
    clipped: list[float] = []

    def watch(module: Any, inputs: tuple[Tensor, ...]) -> None:
        low, high = module.get_input_low_input_high()
        clipped.append(float(((inputs[0] < low - (high - low)) | (inputs[0] > high + 0.2 * (high - low))).sum()))

    with torch.no_grad():
        with following_ranges(tuned):
            tuned(images)
        handles = [q.register_forward_pre_hook(watch) for s, q in tuned.quantizers() if s.kind == "activation"]
        tuned(images)
    assert len(clipped) == len(handles) > 1
    assert sum(clipped) == 0


@pytest.mark.parametrize("fields", [{}, {"optimizer": "sgd", "lr": 1e-3, "augment": "shift", "calibration_batches": 2}])
def test_killed_run_goes_on_bit_for_bit(student: Student, fields: dict[str, Any], tmp_path: Path) -> None:
    chosen = settings(epochs=3, **fields)
    unbroken, killed, resumed = (copy.deepcopy(student) for _ in range(3))
    expected = finetune(tiny_teacher(), unbroken, make_set(), chosen)

    class Ends(FixedBatches):
        left = 9 + chosen.calibration_batches

        def next_batch(self, student: nn.Module) -> Batch:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().next_batch(student)

    place = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_teacher(), killed, Ends(make_set(), 16, 0, augment=chosen.augment), chosen, place)
    assert finetune(tiny_teacher(), resumed, make_set(), chosen, place) == expected
    after = resumed.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in unbroken.state_dict().items())


def test_a_copy_can_be_trained_in_a_loop_of_ones_own(student: Student) -> None:
    ours, own = copy.deepcopy(student), copy.deepcopy(student)
    chosen = settings()
    finetune(tiny_teacher(), ours, make_set(), chosen)
    with FinetuneHooks(tiny_teacher(), own, FixedBatches(make_set(), 16, 0, augment="none"), chosen) as hooks:
        optimizer = torch.optim.Adam(hooks.parameter_groups())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        for epoch in range(2):
            for batch in hooks.epoch(epoch):
                optimizer.zero_grad()
                hooks.loss(batch).backward()
                optimizer.step()
                schedule.step()
                hooks.after_step()
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in ours.state_dict().items())


def test_fine_tuning_can_be_a_step_of_nncfs_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, data = tiny_teacher(), make_set()
    bits = QuantizeSettings(weight_bits=3, activation_bits=3)
    trained: list[Student] = []
    real: Callable[..., Pipeline] = nncf_steps.create_ptq_pipeline

    def with_finetuning(**arguments: Any) -> Pipeline:
        pipeline = real(**arguments)
        last = pipeline.pipeline_steps[-1]

        def student_of(network: nn.Module) -> Student:
            step = next(algorithm for algorithm in last if isinstance(algorithm, LowBitStep))
            return step.student(network, (3, 8, 8))

        def train(student: Student) -> None:
            trained.append(student)
            history = finetune(teacher, student, data, settings(epochs=16, loss="mse"))
            assert history.losses[-1] < history.losses[0]

        last.append(FinetuneStep(student_of, train))
        return pipeline

    plain = quantize(teacher, data, bits)
    monkeypatch.setattr(nncf_steps, "create_ptq_pipeline", with_finetuning)
    tuned = quantize(teacher, data, bits)
    assert len(trained) == 1
    assert tuned.plan == plain.plan
    gaps = [(network(data.images) - teacher(data.images)).norm().item() for network in (plain, tuned)]
    assert gaps[1] < 0.9 * gaps[0]
