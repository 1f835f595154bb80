"""A student on disk and back: the same answers to the last bit, or one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.config import FinetuneSettings, QuantizeSettings
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import finetune
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization import load_student, quantize, save_student
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.tensor_files import read_tensors, write_tensors
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import Branches, filled

pytestmark = pytest.mark.usefixtures("kernels")


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def synthetic_set() -> SyntheticSet:
    return SyntheticSet(images(), None, None, describe_run("noise", {}, 0, "any"))


def student_of(teacher: nn.Module, **fields: Any) -> Student:
    return quantize(teacher, synthetic_set(), QuantizeSettings.model_validate(fields))


def branches() -> nn.Module:
    return filled(Branches())


def sequential() -> nn.Module:
    teacher = tiny_teacher()
    return nn.Sequential(teacher.conv1, teacher.bn1, teacher.relu1, nn.Flatten(), nn.Linear(512, 4)).eval()


def assert_same(loaded: Student, student: Student) -> None:
    assert torch.equal(loaded(images(40)), student(images(40)))
    assert (loaded.sites, loaded.layers, loaded.plan) == (student.sites, student.layers, student.plan)
    assert loaded.input_shape == student.input_shape
    for site in student.sites:
        grid, expected = loaded.grid(site), student.grid(site)
        assert torch.equal(grid.step, expected.step)
        assert torch.equal(grid.zero_point, expected.zero_point)
        assert (grid.low, grid.high, grid.axis) == (expected.low, expected.high, expected.axis)


@pytest.mark.parametrize("make", [tiny_teacher, branches, sequential])
@pytest.mark.parametrize("preset", ["performance", "mixed"])
@pytest.mark.parametrize("bits", [8, 3])
def test_loaded_student_is_the_saved_one(tmp_path: Path, make: Callable[[], nn.Module], preset: str, bits: int) -> None:
    teacher = make()
    student = student_of(teacher, weight_bits=bits, activation_bits=bits, preset=preset, residual_bits=bits)
    save_student(student, tmp_path / "student")
    loaded = load_student(tmp_path / "student", teacher)
    assert_same(loaded, student)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_student_says_which_set_it_was_made_with_also_when_it_comes_back(tmp_path: Path) -> None:
    synthetic, made = synthetic_set(), student_of(tiny_teacher())
    assert made.calibrated_on == synthetic.origin()
    save_student(made, tmp_path)
    assert load_student(tmp_path, tiny_teacher()).calibrated_on == synthetic.origin()


def test_finetuned_student_comes_back_as_well(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    student = student_of(teacher, weight_bits=3, activation_bits=3)
    finetune(teacher, student, synthetic_set(), FinetuneSettings(epochs=1, batch_size=8))
    save_student(student, tmp_path)
    assert_same(load_student(tmp_path, teacher), student)


def test_loaded_student_can_be_finetuned_and_saved_again(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    save_student(student_of(teacher, weight_bits=3), tmp_path)
    loaded = load_student(tmp_path, teacher)
    assert finetune(teacher, loaded, synthetic_set(), FinetuneSettings(epochs=1, batch_size=8)).losses
    save_student(loaded, tmp_path)
    assert_same(load_student(tmp_path, teacher), loaded)


def test_only_the_architecture_of_the_teacher_is_used_and_it_is_left_as_it_was(tmp_path: Path) -> None:
    student = student_of(tiny_teacher())
    save_student(student, tmp_path)
    teacher = tiny_teacher().train()
    teacher.conv2.weight.data.zero_()
    before = Snapshot(teacher)
    loaded = load_student(str(tmp_path), teacher)
    assert before.restore() == []
    assert_same(loaded, student)


def test_the_files_hold_no_pickle_and_no_half_written_one_is_left(tmp_path: Path) -> None:
    save_student(student_of(tiny_teacher()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bit_plan.json", "student.safetensors"]
    _, origin = read_tensors(tmp_path / "student.safetensors", own=True)
    json.loads(origin["description"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_student(student_of(tiny_teacher()), tmp_path)
    return tmp_path


class Wider(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 9, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.conv1(pixels)
        return output


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: tiny_teacher(num_classes=5), id="more_classes"),
        pytest.param(lambda: tiny_teacher(channels=1), id="fewer_channels"),
        pytest.param(branches, id="other_layers"),
        pytest.param(lambda: Wider().eval(), id="other_class"),
    ],
)
def test_another_network_is_refused(saved: Path, make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match="holds a student of another network than"):
        load_student(saved, make())


def test_a_missing_file_is_an_error_that_names_it(saved: Path) -> None:
    (saved / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"student\.safetensors is missing; run `dfq quantize`"):
        load_student(saved, tiny_teacher())


def rewrite(folder: Path, **origin: str) -> None:
    """Write the student again with something else in its head, as a program that knows the format could."""
    path = folder / "student.safetensors"
    tensors, own = read_tensors(path)
    write_tensors(path, tensors, {**own, **origin})


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"format": "99"}, "is not of format"),
        ({"description": "{"}, "does not say what its student is"),
        ({"description": "[" * 100_000}, "does not say what its student is"),
        ({"description": "[]"}, "another network"),
        ({"description": "{}"}, "another network"),
    ],
)
def test_a_description_that_says_nothing_is_an_error(saved: Path, origin: dict[str, str], message: str) -> None:
    rewrite(saved, **origin)
    with pytest.raises(InputError, match=message):
        load_student(saved, tiny_teacher())


def test_a_file_that_is_cut_off_is_an_error(saved: Path) -> None:
    (saved / "student.safetensors").write_text("cut off")
    with pytest.raises(InputError, match="cannot be read"):
        load_student(saved, tiny_teacher())


def test_a_bit_that_was_flipped_is_noticed(saved: Path) -> None:
    path = saved / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"student\.safetensors is not as it was written"):
        load_student(saved, tiny_teacher())


def test_code_of_others_is_not_imported(saved: Path) -> None:
    description = json.loads(read_tensors(saved / "student.safetensors")[1]["description"])
    description["nncf"]["compression_state"][0]["module_path"] = "os"
    rewrite(saved, description=json.dumps(description))
    with pytest.raises(InputError, match="untrusted path 'os'"):
        load_student(saved, tiny_teacher())
