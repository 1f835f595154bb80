"""Block reconstruction of students that NNCF made: nearer to the teacher, on their grids, and repeatable."""

from __future__ import annotations

import copy
import logging
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import pytest
import torch
from nncf.torch.quantization.layers import BaseQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

import dfq_plugin as dfq
from dfq_plugin import quantization
from dfq_plugin.config import QuantizeSettings
from dfq_plugin.errors import InputError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization import reconstruction
from dfq_plugin.student import Student
from dfq_plugin.tensor_files import read_tensors
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import Branches, filled
from integration_tests.students import distance, make_set, student_of, weights_of

pytestmark = pytest.mark.usefixtures("kernels")

TWO_BITS: dict[str, Any] = {"weight_bits": 2, "activation_bits": 3, "first_last_bits": None}


@cache
def reconstructed(preset: str = "performance", steps: int = 300, seed: int = 0) -> Student:
    fields = {"steps": steps, "batch_size": 16, "seed": seed}
    return student_of(tiny_teacher(), make_set(48), preset=preset, reconstruction=fields, **TWO_BITS)


def steps_of(student: Student, kind: str) -> dict[str, Tensor]:
    return {site.name: student.grid(site).step for site in student.sites if site.kind == kind}


@pytest.mark.parametrize("preset", ["performance", "mixed"])
@pytest.mark.parametrize("rounding", ["squant", "nearest"])
def test_student_comes_nearer_to_the_teacher_on_images_it_has_not_seen(preset: str, rounding: str) -> None:
    images, teacher = make_set(64, seed=1).images, tiny_teacher()
    plain = student_of(teacher, make_set(48), preset=preset, rounding=rounding, bias_correction="none", **TWO_BITS)
    seeds = range(3)  # at 2 bits one may do a fifth better or worse than another
    learned = mean(distance(reconstructed(preset, seed=seed), teacher, images) for seed in seeds)
    assert learned < 0.9 * distance(plain, teacher, images)


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_weights_are_on_their_grids_and_quantizers_leave_them_there(preset: str) -> None:
    student = reconstructed(preset)
    for site, weight in weights_of(student).values():
        grid = student.grid(site)
        codes = weight / grid.step.reshape(-1, *[1] * (weight.ndim - 1))
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert grid.low - 1e-4 <= codes.min() <= codes.max() <= grid.high + 1e-4
        assert torch.allclose(student.quantizer(site.name)(weight), weight, atol=1e-6)


def test_steps_of_weights_and_activations_are_learned_and_the_image_keeps_its_own() -> None:
    student, plain = reconstructed(), student_of(tiny_teacher(), make_set(48), **TWO_BITS)
    for kind in ("weight", "activation"):
        learned, searched = steps_of(student, kind), steps_of(plain, kind)
        for site in student.sites:
            if site.kind == kind:
                same = torch.equal(learned[site.name], searched[site.name])
                assert same == site.is_input, site.layer


def test_student_is_whole_again() -> None:
    student, plain = reconstructed(), student_of(tiny_teacher(), make_set(48), **TWO_BITS)
    assert student.plan == plain.plan
    assert student.sites == plain.sites
    for site, quantizer in student.quantizers():
        assert isinstance(quantizer, BaseQuantizer), site.layer
        assert quantizer.is_enabled_quantization()
    assert student.state_dict().keys() == plain.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert not student.training


def test_biases_are_on_the_integer_grid() -> None:
    student = copy.deepcopy(reconstructed())
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.snap_biases()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_same_seed_gives_the_same_student() -> None:
    images = make_set(8, seed=1).images
    reconstructed.cache_clear()
    first = reconstructed(steps=20)(images)
    reconstructed.cache_clear()
    assert torch.equal(first, reconstructed(steps=20)(images))
    assert not torch.equal(first, reconstructed(steps=20, seed=1)(images))


def test_teacher_and_random_state_are_left_as_they_were() -> None:
    teacher, state = tiny_teacher(), torch.get_rng_state()
    before = Snapshot(teacher)
    student_of(teacher, reconstruction={"steps": 3}, **TWO_BITS)
    assert before.restore() == []
    assert torch.equal(torch.get_rng_state(), state)


class Twice(nn.Module):
    """One layer runs twice; a transposed convolution has its channels on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.fc = nn.ConvTranspose2d(4, 6, 2, 2), nn.Linear(6, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.relu(self.twice(F.relu(self.twice(F.relu(self.stem(pixels))))))
        logits: Tensor = self.fc(F.relu(self.up(low)).mean((2, 3)))
        return logits


@pytest.mark.parametrize("network", [Twice, Branches])
def test_networks_with_shared_layers_and_concatenations_come_nearer_too(network: type[nn.Module]) -> None:
    teacher, images = filled(network()), make_set(64, seed=1).images
    fields: dict[str, Any] = {**TWO_BITS, "weight_bits": 3, "rounding": "nearest"}
    plain = student_of(teacher, make_set(48), bias_correction="none", **fields)
    student = student_of(teacher, make_set(48), reconstruction={"steps": 150, "batch_size": 16}, **fields)
    assert distance(student, teacher, images) < distance(plain, teacher, images)


def test_a_layer_that_runs_twice_keeps_the_weight_that_rounding_gives_it() -> None:
    teacher = filled(Twice())
    plain = student_of(teacher, bias_correction="none", **TWO_BITS)
    student = student_of(teacher, reconstruction={"steps": 5}, **TWO_BITS)
    name = "network.twice.weight"
    assert torch.equal(student.network.get_parameter(name), plain.network.get_parameter(name))


def test_rates_that_are_far_too_high_are_an_error_that_names_the_block() -> None:
    with pytest.raises(InputError, match=r"its error is not finite; lower the rates in quantize.reconstruction"):
        student_of(tiny_teacher(), reconstruction={"steps": 5, "step_lr": 1e38, "range_lr": 1e38}, **TWO_BITS)


class Deep(nn.Sequential):
    """Convolutions in a row, one block each."""

    def __init__(self) -> None:
        rows = [layer for _ in range(3) for layer in (nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())]
        super().__init__(nn.Conv2d(3, 6, 3), nn.ReLU(), *rows, nn.Flatten(), nn.Linear(216, 4))


DEEP = filled(Deep())


class KilledError(Exception):
    """What kills a run."""


class TestCheckpoint:
    FIELDS: ClassVar[dict[str, Any]] = {**TWO_BITS, "reconstruction": {"steps": 8, "batch_size": 16}}

    def quantize(self, place: Path | None, **more: Any) -> Student:
        settings = QuantizeSettings(**{**self.FIELDS, **more})
        return quantization.quantize(DEEP, make_set(16), settings, checkpoint=place)

    def killed_at(self, block: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run until the block of that number begins to learn."""
        begun = []

        def learn(*arguments: Any) -> None:
            begun.append(arguments)
            if len(begun) > block:
                raise KilledError
            learn_as_ever(*arguments)

        learn_as_ever = reconstruction._learn
        with monkeypatch.context() as patched:
            patched.setattr(reconstruction, "_learn", learn)
            with pytest.raises(KilledError):
                self.quantize(place)

    def bytes_of(self, student: Student, folder: Path) -> bytes:
        quantization.save_student(student, folder)
        return (folder / "student.safetensors").read_bytes()

    @pytest.mark.parametrize("block", [1, 3])
    def test_lets_a_killed_run_end_as_an_unbroken_one_byte_for_byte(
        self, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "blocks.safetensors"
        self.killed_at(block, place, monkeypatch)
        assert int(read_tensors(place, own=True)[0]["blocks"]) == block
        learned = []

        def learn(*arguments: Any) -> None:
            learned.append(arguments)
            learn_as_ever(*arguments)

        learn_as_ever = reconstruction._learn
        monkeypatch.setattr(reconstruction, "_learn", learn)
        resumed = self.bytes_of(self.quantize(place), tmp_path / "resumed")
        blocks = int(read_tensors(place, own=True)[0]["blocks"])
        assert len(learned) == blocks - block > 0
        assert self.bytes_of(self.quantize(place), tmp_path / "whole") == resumed  # nothing is left to learn
        assert len(learned) == blocks - block
        assert self.bytes_of(self.quantize(None), tmp_path / "unbroken") == resumed

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ({"reconstruction": {"steps": 16, "batch_size": 16}}, "other settings; delete it"),
            ({"weight_bits": 3}, "other student; delete it"),
        ],
    )
    def test_of_another_run_is_an_error_that_says_what_differs(
        self, more: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "blocks.safetensors"
        self.killed_at(1, place, monkeypatch)
        with pytest.raises(InputError, match=told):
            self.quantize(place, **more)

    def test_that_is_damaged_is_named_and_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        place = tmp_path / "blocks.safetensors"
        self.killed_at(1, place, monkeypatch)
        content = bytearray(place.read_bytes())
        content[-1] ^= 1
        place.write_bytes(bytes(content))
        with caplog.at_level(logging.WARNING, logger="nncf.dfq_plugin.quantize"):
            damaged = self.bytes_of(self.quantize(place), tmp_path / "damaged")
        assert "begins anew" in caplog.text
        assert self.bytes_of(self.quantize(None), tmp_path / "unbroken") == damaged

    def test_is_gone_when_the_function_of_the_package_returns(self, tmp_path: Path) -> None:
        place = tmp_path / "blocks.safetensors"
        student = dfq.quantize(DEEP, make_set(16), checkpoint=place, **self.FIELDS)
        assert not place.exists()
        unbroken = self.bytes_of(self.quantize(None), tmp_path / "unbroken")
        assert self.bytes_of(student, tmp_path / "kept") == unbroken
