"""The loop on a student without quantizers: a copy of the teacher with its weights a little off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.config import FinetuneSettings
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.finetuning import loop as loop_module
from dfq_plugin.network_state import Snapshot
from dfq_plugin.student import ProductLayer, Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher

LAYERS = (
    ProductLayer("conv1", "conv1.weight", None, None, None),
    ProductLayer("conv2", "conv2.weight", None, None, None),
    ProductLayer("fc", "fc.weight", "fc.bias", None, None),
)
SETTINGS = {"epochs": 3, "lr": 1e-2, "batch_size": 4, "augment": False}


def make_set(count: int = 8) -> SyntheticSet:
    random = torch.Generator().manual_seed(1)
    return SyntheticSet(torch.randn(count, 3, 8, 8, generator=random), None, None, describe_run("noise", {}, 1, "any"))


def make_student(layers: tuple[ProductLayer, ...] = LAYERS) -> Student:
    network = tiny_teacher().requires_grad_(requires_grad=False)
    random = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=random))
    return Student(network, (3, 8, 8), (), layers, ())


def run(student: Student, synthetic: SyntheticSet | None = None, **changes: Any) -> History:
    settings = FinetuneSettings.model_validate({**SETTINGS, **changes})
    return finetune(tiny_teacher(), student, synthetic or make_set(), settings)


def weights_of(student: Student) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


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
    finetune(teacher, make_student(), make_set(), FinetuneSettings.model_validate(SETTINGS))
    assert before.restore() == []


def test_teacher_is_asked_in_eval_mode() -> None:
    trained, evaluated = make_student(), make_student()
    settings = FinetuneSettings.model_validate(SETTINGS)
    finetune(tiny_teacher().train(), trained, make_set(), settings)
    finetune(tiny_teacher().eval(), evaluated, make_set(), settings)
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


@pytest.mark.parametrize("augment", [False, True])
def test_result_is_the_same_for_the_same_seed(augment: bool) -> None:
    students = [make_student() for _ in range(3)]
    for student, seed in zip(students, (5, 5, 6), strict=True):
        run(student, seed=seed, augment=augment)
    one, two, other = (student.network.get_parameter("fc.weight") for student in students)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_global_random_state_is_not_used() -> None:
    state = torch.get_rng_state()
    run(make_student(), augment=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_epoch_changes_nothing() -> None:
    student = make_student()
    before = weights_of(student)
    assert run(student, epochs=0) == History(())
    assert all(torch.equal(value, before[name]) for name, value in weights_of(student).items())


class Counting(nn.Module):
    """A teacher that notes the size of every batch it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.sizes = tiny_teacher(), list[int]()
        self.seen = list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.seen.append(images)
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        pytest.param(3, 8, [3, 3], id="fewer_images_than_a_batch"),
        pytest.param(8, 4, [4, 4, 4, 4], id="whole_batches"),
        pytest.param(10, 4, [4, 4, 4, 4], id="rest_is_left_to_another_epoch"),
    ],
)
def test_an_epoch_is_made_of_whole_batches(images: int, batch_size: int, sizes: list[int]) -> None:
    teacher = Counting()
    settings = FinetuneSettings.model_validate({**SETTINGS, "epochs": 2, "batch_size": batch_size})
    finetune(teacher, make_student(), make_set(images), settings)
    assert teacher.sizes == sizes


def test_an_epoch_shows_every_image_once_and_each_epoch_in_another_order() -> None:
    teacher, synthetic = Counting(), make_set(8)
    settings = FinetuneSettings.model_validate({**SETTINGS, "epochs": 2})
    finetune(teacher, make_student(), synthetic, settings)
    first, second = torch.cat(teacher.seen[:2]), torch.cat(teacher.seen[2:])
    for epoch in (first, second):
        assert torch.equal(epoch.sum(dim=(1, 2, 3)).sort().values, synthetic.images.sum(dim=(1, 2, 3)).sort().values)
    assert not torch.equal(first, second)


def test_moved_images_are_shifted_around_the_edges_and_mirrored() -> None:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.arange(20.0).expand(1, 1, 30, 20) + 100 * torch.arange(30.0).reshape(30, 1)
    found = [loop_module._moved(ramp, generator) for _ in range(200)]
    expected = {
        (down, right, mirrored)
        for image in found
        for down, right, mirrored in [where(image)]
        if torch.equal(image, (ramp.flip(-1) if mirrored else ramp).roll((down, right), (-2, -1)))
    }
    assert {down for down, _, _ in expected} == set(range(-3, 4))
    assert {right for _, right, _ in expected} == set(range(-2, 3))
    assert {mirrored for _, _, mirrored in expected} == {False, True}
    assert 60 < sum(where(image)[2] for image in found) < 140


def where(image: Tensor) -> tuple[int, int, bool]:
    """Down, right and mirrored, read off the ramp."""
    columns, rows = image[0, 0, 0] % 100, image[0, 0, :, 0] // 100
    mirrored = float(columns[1] - columns[0]) in {-1.0, 19.0}
    column, row = int((columns == 0).nonzero()), int((rows == 0).nonzero())
    right = (column - 19 if mirrored else column) % 20
    return (row + 15) % 30 - 15, (right + 10) % 20 - 10, mirrored


class TestDivergence:
    def test_of_the_loss_is_an_error_that_names_the_rate(self) -> None:
        student = make_student()
        student.network.get_parameter("fc.weight")[0, 0] = float("nan")
        with pytest.raises(InputError, match=r"The loss is not finite in epoch 0; lower finetune.lr \(now 0.01\)"):
            run(student)
        assert not any(parameter.requires_grad for parameter in student.parameters())

    def test_of_a_weight_is_an_error_even_after_the_last_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(student: Tensor, _teacher: Tensor, _temperature: float) -> Tensor:
            gap: Tensor = student.sub(student.detach())
            return gap.abs().sqrt().sum()  # finite, its gradient is not

        monkeypatch.setattr(loop_module, "kl_loss", spoil)
        with pytest.raises(InputError, match=r"(fc|conv)\S+ is not finite in epoch 0"):
            run(make_student(), make_set(4), epochs=1)


def test_quantizer_ranges_have_their_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clip(nn.Module):
        """Stands in for a quantizer: a range that can be trained."""

        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Parameter(torch.tensor(2.0))

        def forward(self, values: Tensor) -> Tensor:
            return torch.minimum(values, self.top)

        def is_enabled_quantization(self) -> bool:
            return True

        def get_trainable_params(self) -> dict[str, nn.Parameter]:
            return {"top": self.top}

    def train(multiplier: float) -> tuple[float, bool]:
        student = make_student()
        clip = Clip()
        student.network.add_module("relu1", nn.Sequential(nn.ReLU(), clip))
        monkeypatch.setattr(Student, "quantizers", lambda _: iter([(None, clip)]))
        run(student, make_set(4), epochs=1, range_lr_multiplier=multiplier)
        return clip.top.item(), clip.top.requires_grad

    moved, trainable = train(0.5)
    assert abs(moved - 2.0) == pytest.approx(0.5 * 1e-2 * 2.0, rel=1e-3)
    assert not trainable
    assert train(0.0)[0] == 2.0


def test_a_student_that_equals_the_teacher_begins_without_loss() -> None:
    student = Student(tiny_teacher(), (3, 8, 8), (), LAYERS, ())
    assert run(student, make_set(4), epochs=1).losses[0] == pytest.approx(0.0, abs=1e-6)
