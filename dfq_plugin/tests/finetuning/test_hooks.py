"""The hooks by themselves: their life cycle, their losses, and loops that are not ours."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch, FixedBatches
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import FinetuneHooks, as_source, finetune
from dfq_plugin.network_state import Snapshot
from dfq_plugin.student import Student
from dfq_plugin.tensor_files import read_tensors, write_tensors
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.finetuning.samples import (
    make_clipped_student,
    make_set,
    make_student,
    settings,
    weights_of,
)


def make_hooks(
    student: Student, teacher: nn.Module | None = None, *, labelled: bool = False, **changes: Any
) -> FinetuneHooks:
    chosen = settings(**changes)
    source = as_source(make_set(labelled=labelled), chosen)
    return FinetuneHooks(teacher or tiny_teacher(), student, source, chosen)


def batch_of(count: int = 4) -> Batch:
    made = make_set(count, labelled=True)
    return Batch(made.images, made.labels)


def train(hooks: FinetuneHooks, epochs: int) -> None:
    with hooks:
        optimizer = torch.optim.Adam(hooks.parameter_groups())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * epochs)
        for epoch in range(epochs):
            for batch in hooks.epoch(epoch):
                optimizer.zero_grad()
                hooks.loss(batch).backward()
                optimizer.step()
                schedule.step()
                hooks.after_step()


def test_a_loop_of_ones_own_gives_the_student_that_finetune_gives() -> None:
    ours, own = make_student(), make_student()
    history = finetune(tiny_teacher(), ours, make_set(), settings())
    hooks = make_hooks(own)
    train(hooks, 3)
    assert all(torch.equal(value, weights_of(own)[name]) for name, value in weights_of(ours).items())
    assert hooks.losses == history.losses
    assert hooks.steps == 6


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"augment": "none"}, 1),
        ({"augment": "shift"}, 3),
        ({"augment": "none", "losses": {"kl": 1.0, "feature": 1.0}}, 3),
    ],
)
def test_the_teacher_runs_once_over_images_that_stay_as_they_are(changes: dict[str, Any], passes: int) -> None:
    teacher, asked = tiny_teacher(), []
    hooks = make_hooks(make_student(), teacher, **changes)
    teacher.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    train(hooks, 3)
    assert asked.count(4) * 4 == passes * len(make_set())  # the layers to compare are found with one image


def test_kept_answers_teach_what_fresh_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kept, with_fresh = make_student(), make_student()
    train(make_hooks(with_kept, augment="none"), 3)
    monkeypatch.setattr(Batch, "at", lambda batch, places: Batch(batch.images[places]))
    train(make_hooks(with_fresh, augment="none"), 3)
    for name, value in weights_of(with_kept).items():
        assert torch.allclose(value, weights_of(with_fresh)[name], atol=1e-5)


def test_callbacks_do_what_with_and_epoch_do() -> None:
    by_with, by_callbacks = make_student(), make_student()
    train(make_hooks(by_with), 1)
    hooks = make_hooks(by_callbacks)
    hooks.on_train_begin()
    optimizer = torch.optim.Adam(hooks.parameter_groups())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    hooks.on_epoch_begin(0)
    for batch in hooks.batches():
        optimizer.zero_grad()
        hooks.loss(batch).backward()
        optimizer.step()
        schedule.step()
        hooks.after_step()
    hooks.on_epoch_end()
    hooks.on_train_end()
    assert all(torch.equal(value, weights_of(by_callbacks)[name]) for name, value in weights_of(by_with).items())
    assert len(hooks.losses) == 1


class TestLifeCycle:
    def test_lets_gradients_reach_what_is_trained_and_nothing_else(self) -> None:
        student, teacher = make_student().train(), tiny_teacher().train()
        with make_hooks(student, teacher):
            wanting = {name for name, p in student.network.named_parameters() if p.requires_grad}
            assert wanting == {"conv1.weight", "conv2.weight", "fc.weight", "fc.bias"}
            assert not any(p.requires_grad for p in teacher.parameters())
            assert not any(m.training for m in (*teacher.modules(), *student.modules()))

    @pytest.mark.parametrize("breaks", [False, True])
    def test_gives_both_networks_back(self, breaks: bool) -> None:
        student, teacher = make_student(), tiny_teacher().train()
        before = Snapshot(teacher)
        hooks = make_hooks(student, teacher, losses={"cross_entropy": 1.0, "feature": 1.0})
        batch = Batch(make_set().images) if breaks else batch_of()  # labels are missed in the middle of a loss
        with pytest.raises(InputError) if breaks else nullcontext(), hooks:
            hooks.loss(batch).backward()
        assert before.restore() == []
        assert not any(p.requires_grad or p.grad is not None for p in student.parameters())
        assert not any(m._forward_pre_hooks for m in student.modules())

    def test_gives_both_networks_back_when_the_beginning_fails(self) -> None:
        class Broken(FixedBatches):
            def prepare(self, student: nn.Module) -> None:  # noqa: ARG002 - the protocol's
                raise InputError

        student, teacher = make_student(), tiny_teacher().train()
        before = Snapshot(teacher)
        hooks = FinetuneHooks(teacher, student, Broken(make_set(), 4, 0), settings())
        with pytest.raises(InputError):
            hooks.on_train_begin()
        assert before.restore() == []
        assert not any(p.requires_grad for p in student.parameters())

    @pytest.mark.parametrize("breaks", [False, True])
    def test_puts_biases_on_their_grid_unless_training_broke_off(
        self, breaks: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapped: list[Student] = []
        monkeypatch.setattr(Student, "snap_biases", lambda s: snapped.append(s))  # noqa: PLW0108 - bound
        student = make_student()
        hooks = make_hooks(student)
        hooks.on_train_begin()
        if breaks:
            hooks.close()
        else:
            hooks.on_train_end()
        assert snapped == ([] if breaks else [student])


class TestLoss:
    def test_is_the_weighted_sum_times_the_scale(self) -> None:
        student, teacher, batch = make_student(), tiny_teacher(), batch_of()
        weights = {"mse": 2.0, "cross_entropy": 0.5}
        with torch.no_grad():
            found, expected = student(batch.images), teacher(batch.images)
        mse = (found - expected).square().mean()
        cross_entropy = nn.functional.cross_entropy(found, batch.targets)
        with make_hooks(student, teacher, losses=weights, loss_scale=3.0) as hooks:
            loss = hooks.loss(batch)
        assert loss.item() == pytest.approx((3.0 * (2.0 * mse + 0.5 * cross_entropy)).item(), rel=1e-6)

    @pytest.mark.parametrize("reduction", ["batchmean", "mean"])
    def test_kl_has_the_reduction_and_temperature_of_the_settings(self, reduction: str) -> None:
        student, teacher, batch = make_student(), tiny_teacher(), batch_of()
        with torch.no_grad():
            p, q = ((net(batch.images) / 2.0).log_softmax(dim=1) for net in (teacher, student))
        expected = 4.0 * (p.exp() * (p - q)).sum() / (4 if reduction == "batchmean" else 16)
        with make_hooks(student, teacher, temperature=2.0, kl_reduction=reduction) as hooks:
            assert hooks.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_disagreement_has_the_temperature_of_the_settings(self) -> None:
        teacher = tiny_teacher()
        student = make_student()
        student.network.load_state_dict(teacher.state_dict())
        with make_hooks(student, teacher, losses={"disagreement": 1.0}, temperature=3.0) as hooks:
            assert hooks.loss(batch_of()).item() == pytest.approx(-9.0 * math.log(4.0), rel=1e-5)

    def test_features_are_the_pooled_ones_unless_layers_are_named(self) -> None:
        student, teacher, batch = make_student(), tiny_teacher(), batch_of()

        def pooled(network: Any) -> Tensor:
            low = network.relu1(network.bn1(network.conv1(batch.images)))
            high: Tensor = network.relu2(network.bn2(network.conv2(low)))
            return high.mean(dim=(2, 3))

        def first(network: Any) -> Tensor:
            return network.bn1(network.conv1(batch.images))  # type: ignore[no-any-return]

        for layers, read in (((), pooled), (("bn1",), first)):
            with torch.no_grad():
                expected = (read(student.network) - read(teacher)).square().mean().item()
            with make_hooks(student, teacher, losses={"feature": 1.0}, feature_layers=layers) as hooks:
                assert hooks.loss(batch).item() == pytest.approx(expected, rel=1e-4)
                assert hooks.loss(batch).item() == pytest.approx(expected, rel=1e-4)

    def test_attention_compares_where_the_named_layers_look(self) -> None:
        student, teacher = make_student(), tiny_teacher()
        chosen: dict[str, Any] = {"losses": {"attention": 1.0}, "feature_layers": ("relu1", "relu2")}
        with make_hooks(student, teacher, **chosen) as hooks:
            assert hooks.loss(batch_of()).item() > 0.01
        student.network.load_state_dict(teacher.state_dict())
        with make_hooks(student, teacher, **chosen) as hooks:
            assert hooks.loss(batch_of()).item() == pytest.approx(0.0, abs=1e-5)

    def test_sends_gradients_to_the_student_alone(self) -> None:
        student, teacher = make_student(), tiny_teacher()
        with make_hooks(student, teacher, losses={"kl": 1.0, "feature": 1.0}) as hooks:
            hooks.loss(batch_of()).backward()
            assert student.network.get_parameter("conv1.weight").grad is not None
            assert all(p.grad is None for p in teacher.parameters())

    def test_asks_the_wrapped_student_where_there_is_one(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self, student: Student) -> None:
                super().__init__()
                self.student = student

            def forward(self, images: Tensor) -> Tensor:
                return 0.0 * self.student(images)  # type: ignore[no-any-return]

        student, teacher, batch = make_student(), tiny_teacher(), batch_of()
        with make_hooks(student, teacher, loss="mse") as hooks:
            found = hooks.loss(batch, Wrapped(student)).item()
        assert found == pytest.approx(teacher(batch.images).square().mean().item(), rel=1e-5)

    def test_with_labels_needs_labels(self) -> None:
        with (
            make_hooks(make_student(), losses={"cross_entropy": 1.0}) as hooks,
            pytest.raises(InputError, match="no labels"),
        ):
            hooks.loss(Batch(make_set().images))


def test_curves_hold_the_mean_of_each_loss_where_there_are_several() -> None:
    student = make_student()
    hooks = make_hooks(student, labelled=True, losses={"kl": 1.0, "cross_entropy": 2.0}, lr=1e-30)
    train(hooks, 2)
    curves = hooks.curves()
    assert curves.keys() == {"loss.kl", "loss.cross_entropy"}
    for epoch in range(2):
        assert curves["loss.kl"][epoch] + curves["loss.cross_entropy"][epoch] == pytest.approx(hooks.losses[epoch])
    plain = make_hooks(make_student())
    train(plain, 1)
    assert plain.curves() == {}


class TestState:
    def test_lets_other_hooks_go_on(self, tmp_path: Path) -> None:
        student, other = make_student(), make_student()
        hooks = make_hooks(student)
        train(hooks, 2)
        write_tensors(tmp_path / "state", hooks.state_dict())
        resumed = make_hooks(other)
        resumed.load_state_dict(read_tensors(tmp_path / "state")[0])
        assert resumed.steps == hooks.steps == 4
        assert resumed.losses == hooks.losses
        assert all(torch.equal(value, weights_of(other)[name]) for name, value in weights_of(student).items())
        assert torch.equal(next(resumed.batches()).images, next(hooks.batches()).images)

    def test_of_another_student_is_refused_and_changes_nothing(self) -> None:
        student = make_student()
        before = weights_of(student)
        state = {name: t for name, t in make_hooks(make_student()).state_dict().items() if "fc.bias" not in name}
        with pytest.raises(InputError, match="another student"):
            make_hooks(student).load_state_dict(state)
        assert all(torch.equal(value, before[name]) for name, value in weights_of(student).items())


class TestBatchNorm:
    @pytest.mark.parametrize("train_batchnorm", [False, True])
    def test_is_trained_when_asked_for_and_never_updates_its_statistics(self, train_batchnorm: bool) -> None:
        student = make_student()
        before = weights_of(student)
        train(make_hooks(student, train_batchnorm=train_batchnorm), 1)
        changed = {name for name, value in weights_of(student).items() if not torch.equal(value, before[name])}
        affine = {f"network.bn{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
        assert changed & {name for name in before if ".bn" in name} == (affine if train_batchnorm else set())


class TestCalibration:
    def test_follows_the_extremes_before_anything_is_trained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, clip = make_clipped_student(monkeypatch)
        hooks = make_hooks(student, calibration_batches=3, range_lr_multiplier=0.0)
        source = as_source(make_set(), settings())
        highs = []
        network: Any = student.network
        for _ in range(3):
            images = source.next_batch(student).images
            highs.append(network.relu1[0](network.bn1(network.conv1(images))).max().item())
        with hooks:
            after = clip.scale.item()
        expected = (0.81 * highs[0] + 0.9 * highs[1] + highs[2]) / (0.81 + 0.9 + 1)
        assert after == pytest.approx(expected, rel=1e-5)
        assert not clip._forward_pre_hooks

    def test_is_not_done_unless_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, clip = make_clipped_student(monkeypatch)
        with make_hooks(student):
            assert clip.scale.item() == 2.0
