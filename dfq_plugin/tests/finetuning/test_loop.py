"""The loop on a student without quantizers: a copy of the teacher with its weights a little off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch, FixedBatches
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.finetuning import hooks as hooks_module
from dfq_plugin.finetuning.loop import make_optimizer, make_schedule
from dfq_plugin.finetuning.losses import mse_loss
from dfq_plugin.network_state import Snapshot
from dfq_plugin.student import Student
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.finetuning.samples import (
    LAYERS,
    make_clipped_student,
    make_set,
    make_student,
    run,
    settings,
    weights_of,
)


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_student_comes_nearer_to_the_teacher(loss: str) -> None:
    student, images = make_student(), make_set().images
    before = (student(images) - tiny_teacher()(images)).square().mean()
    history = run(student, loss=loss, epochs=10)
    after = (student(images) - tiny_teacher()(images)).square().mean()
    assert len(history.losses) == 10
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert after < 0.5 * before


def test_history_holds_the_mean_loss_of_each_epoch() -> None:
    student, images = make_student(), make_set().images
    expected = 3.0 * (student(images) - tiny_teacher()(images)).square().mean().item()
    history = run(student, epochs=2, lr=1e-30, loss="mse", loss_scale=3.0)
    assert list(history.losses) == pytest.approx([expected, expected], rel=1e-5)


def test_curves_are_told_after_every_epoch_as_far_as_they_go() -> None:
    told: list[dict[str, list[float]]] = []
    chosen = settings(epochs=3, losses={"kl": 1.0, "mse": 2.0})

    def watch(curves: Mapping[str, Sequence[float]]) -> None:
        told.append({name: list(values) for name, values in curves.items()})

    history = finetune(tiny_teacher(), make_student(), make_set(), chosen, watch=watch)
    whole = {"distillation": list(history.losses), **{name: list(values) for name, values in history.curves.items()}}
    assert set(whole) == {"distillation", "loss.kl", "loss.mse"}
    assert told == [{name: values[:epoch] for name, values in whole.items()} for epoch in (1, 2, 3)]


def test_only_weights_and_biases_of_product_layers_change() -> None:
    student = make_student()
    before = weights_of(student)
    run(student)
    after = weights_of(student)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"network.{name}" for name in ("conv1.weight", "conv2.weight", "fc.weight", "fc.bias")}


def test_first_step_of_a_tensor_is_the_rate_times_its_root_mean_square() -> None:
    student = make_student()
    before = weights_of(student)["network.fc.weight"]
    run(student, make_set(4), epochs=1)  # one step of Adam moves every weight by the rate
    moved = (weights_of(student)["network.fc.weight"] - before).abs()
    assert moved.max().item() == pytest.approx(1e-2 * before.square().mean().sqrt().item(), rel=1e-3)


def test_rate_falls_along_a_cosine() -> None:
    student = make_student()
    before = weights_of(student)["network.fc.weight"]
    run(student, make_set(4), epochs=2)  # two steps in nearly the same direction, the second at half the rate
    moved = (weights_of(student)["network.fc.weight"] - before).abs()
    assert moved.max().item() == pytest.approx(1.5e-2 * before.square().mean().sqrt().item(), rel=0.02)


def test_teacher_is_left_as_it_was() -> None:
    teacher = tiny_teacher().train()
    teacher.bn1.eval()  # one layer frozen by its owner
    before = Snapshot(teacher)
    finetune(teacher, make_student(), make_set(), settings())
    assert before.restore() == []


def test_teacher_is_asked_in_eval_mode() -> None:
    trained, evaluated = make_student(), make_student()
    finetune(tiny_teacher().train(), trained, make_set(), settings())
    finetune(tiny_teacher().eval(), evaluated, make_set(), settings())
    assert torch.equal(trained.network.get_parameter("fc.weight"), evaluated.network.get_parameter("fc.weight"))


def test_student_ends_in_eval_mode_with_nothing_to_train() -> None:
    student = make_student().train()
    statistics = student.network.get_buffer("bn1.running_mean").clone()
    run(student)
    assert not any(module.training for module in student.modules())
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(student.network.get_buffer("bn1.running_mean"), statistics)


def test_biases_are_put_on_their_grid_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    snapped: list[Tensor] = []

    def note(student: Student) -> None:
        snapped.append(student.network.get_parameter("fc.weight").clone())

    monkeypatch.setattr(Student, "snap_biases", note)
    student = make_student()
    run(student)
    assert len(snapped) == 1
    assert torch.equal(snapped[0], student.network.get_parameter("fc.weight"))


@pytest.mark.parametrize("augment", ["none", "shift", "crop"])
def test_result_is_the_same_for_the_same_seed(augment: str) -> None:
    students = [make_student() for _ in range(3)]
    for student, seed in zip(students, (5, 5, 6), strict=True):
        run(student, seed=seed, augment=augment)
    one, two, other = (student.network.get_parameter("fc.weight") for student in students)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_global_random_state_is_not_used() -> None:
    state = torch.get_rng_state()
    run(make_student(), augment="shift")
    assert torch.equal(torch.get_rng_state(), state)


def test_no_epoch_changes_nothing() -> None:
    student = make_student()
    before = weights_of(student)
    assert run(student, epochs=0) == History(())
    assert all(torch.equal(value, before[name]) for name, value in weights_of(student).items())


def shown_to(student: Student) -> list[Tensor]:
    """Every batch that the student will be shown."""
    shown: list[Tensor] = []
    student.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    return shown


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        pytest.param(3, 8, [3, 3], id="fewer_images_than_a_batch"),
        pytest.param(8, 4, [4, 4, 4, 4], id="whole_batches"),
        pytest.param(10, 4, [4, 4, 4, 4], id="rest_is_left_to_another_epoch"),
    ],
)
def test_an_epoch_is_made_of_whole_batches(images: int, batch_size: int, sizes: list[int]) -> None:
    student = make_student()
    shown = shown_to(student)
    run(student, make_set(images), epochs=2, batch_size=batch_size)
    assert [len(batch) for batch in shown] == sizes


def test_an_epoch_shows_every_image_once_and_each_epoch_in_another_order() -> None:
    student, synthetic = make_student(), make_set(8)
    shown = shown_to(student)
    run(student, synthetic, epochs=2)
    first, second = torch.cat(shown[:2]), torch.cat(shown[2:])
    for epoch in (first, second):
        sums, expected = (each.sum(dim=(1, 2, 3)).sort().values for each in (epoch, synthetic.images))
        assert torch.allclose(sums, expected, atol=1e-4)
    assert not torch.equal(first, second)


class TestDivergence:
    def test_of_the_loss_is_an_error_that_names_the_rate(self) -> None:
        student = make_student()
        student.network.get_parameter("fc.weight")[0, 0] = float("nan")
        with pytest.raises(InputError, match=r"The loss is not finite in epoch 0; lower finetune.lr \(now 0.01\)"):
            run(student)
        assert not any(parameter.requires_grad for parameter in student.parameters())

    def test_of_a_weight_is_an_error_even_after_the_last_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(student: Tensor, *_others: object) -> Tensor:
            gap: Tensor = student.sub(student.detach())
            return gap.abs().sqrt().sum()  # finite, its gradient is not

        monkeypatch.setattr(hooks_module, "kl_loss", spoil)
        with pytest.raises(InputError, match=r"(fc|conv)\S+ is not finite in epoch 0"):
            run(make_student(), make_set(4), epochs=1)


def test_quantizer_ranges_have_their_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(multiplier: float) -> tuple[float, bool]:
        student, clip = make_clipped_student(monkeypatch)
        run(student, make_set(4), epochs=1, range_lr_multiplier=multiplier)
        return clip.scale.item(), clip.scale.requires_grad

    moved, trainable = train(0.5)
    assert abs(moved - 2.0) == pytest.approx(0.5 * 1e-2 * 2.0, rel=1e-3)
    assert not trainable
    assert train(0.0)[0] == 2.0


def test_a_student_that_equals_the_teacher_begins_without_loss() -> None:
    student = Student(tiny_teacher(), (3, 8, 8), (), LAYERS, ())
    assert run(student, make_set(4), epochs=1).losses[0] == pytest.approx(0.0, abs=1e-6)


class TestOptimizer:
    def test_sgd_takes_absolute_rates_with_nesterov_momentum_and_decay(self) -> None:
        student, images = make_student(), make_set(4).images
        weight = student.network.get_parameter("fc.weight")
        before = weight.clone()
        weight.requires_grad = True
        mse_loss(student(images), tiny_teacher()(images)).backward()
        assert weight.grad is not None
        pulled = weight.grad + 0.1 * before
        weight.requires_grad = False
        weight.grad = None
        run(student, make_set(4), epochs=1, loss="mse", optimizer="sgd", lr=0.01, momentum=0.8, weight_decay=0.1)
        assert torch.allclose(weight, before - 0.01 * (1 + 0.8) * pulled, atol=1e-6)

    def test_steps_divide_the_rates_by_ten_after_each_milestone(self) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1))
        chosen = settings(optimizer="sgd", schedule="steps", milestones=(2, 3))
        optimizer = make_optimizer([{"params": [parameter], "lr": 1.0}], chosen)
        schedule = make_schedule(optimizer, chosen, steps_per_epoch=2)
        rates = []
        for _ in range(8):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx([1.0] * 4 + [0.1] * 2 + [0.01] * 2)

    def test_an_epoch_may_have_more_steps_than_a_pass(self) -> None:
        student = make_student()
        shown = shown_to(student)
        run(student, make_set(8), epochs=2, steps_per_epoch=5)
        assert [len(batch) for batch in shown] == [4] * 10


class Watching(FixedBatches):
    """A source that is told of the student and has something to tell."""

    def __init__(self) -> None:
        super().__init__(make_set(), 4, 0, augment="none")
        self.students: list[nn.Module] = []
        self.prepared = 0

    def prepare(self, student: nn.Module) -> None:
        self.prepared += 1
        assert any(parameter.requires_grad for parameter in student.parameters())

    def next_batch(self, student: nn.Module) -> Batch:
        self.students.append(student)
        return super().next_batch(student)

    def curves(self) -> dict[str, tuple[float, ...]]:
        return {"generator.adaptability": (0.5, 0.25)}


def test_a_source_sees_the_student_at_every_batch_and_its_curves_are_kept() -> None:
    student, source = make_student(), Watching()
    history = finetune(tiny_teacher(), student, source, settings(epochs=2))
    assert source.prepared == 1
    assert source.students == [student] * 4
    assert history.curves == {"generator.adaptability": (0.5, 0.25)}


def test_a_set_and_a_source_of_it_give_the_same_student() -> None:
    by_set, by_source = make_student(), make_student()
    run(by_set, augment="shift", seed=4)
    finetune(tiny_teacher(), by_source, FixedBatches(make_set(), 4, 4), settings(augment="shift", seed=4))
    assert torch.equal(by_set.network.get_parameter("fc.weight"), by_source.network.get_parameter("fc.weight"))
