"""Trials of ``quantize`` on a clock of their own: where time grows as it is thought to, they foretell it exactly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dfq_plugin import quantize_trials
from dfq_plugin.config import Config, QuantizeSettings, load_config
from dfq_plugin.progress import track
from dfq_plugin.quantize_trials import COPIES, FEW_ITEMS, QuantizeTrials
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher, read_facts
from dfq_plugin.testing import tiny_teacher

BUILD_S, SETUP_S, ITEM_S, IMAGE_S, STEP_S, CANDIDATE_S = 50.0, 4.0, 0.25, 0.001, 0.5, 0.125
BLOCKS, CANDIDATES, BETWEEN_BYTES, WANTED = 3, 6, 40, 1500
SIDES = (3, 8, 8)
IMAGE_BYTES = COPIES * 4 * 3 * 8 * 8


class Machine:
    """Quantizes in a time that is known, and counts how often and on how many images."""

    def __init__(self, image_s: float = IMAGE_S) -> None:
        self.now, self.image_s = 0.0, image_s
        self.images: list[int] = []

    def build(self) -> None:
        self.now += BUILD_S

    def quantize(self, network: nn.Module, images: SyntheticSet, settings: QuantizeSettings, _device: str) -> Any:
        self.images.append(count := len(images.images))
        self.now += SETUP_S + ITEM_S * -(-min(settings.num_init_samples, count) // settings.batch_size)
        if settings.allocation.average_weight_bits is not None:
            for _ in track(CANDIDATES, "Trying bits"):
                self.now += CANDIDATE_S * min(settings.allocation.num_images, count)
        steps = settings.reconstruction.steps
        if steps or settings.rounding == "gptq":
            for _ in track(BLOCKS, "Blocks"):
                self.now += (count * self.image_s + steps * STEP_S) / BLOCKS
        return network


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("time.perf_counter", lambda: made.now)
    fake = SimpleNamespace(quantize=made.quantize, bytes_between_blocks=lambda *_: BETWEEN_BYTES)
    monkeypatch.setattr(quantize_trials, "quantization", fake)
    monkeypatch.setattr(quantize_trials, "ensure_extension", made.build)
    return made


def job(**quantize: Any) -> Config:
    calibration = {"provider": "noise", "num_samples": WANTED}
    said = {"model": {"source": "timm:none"}, "input_shape": list(SIDES), "calibration": calibration}
    return load_config({**said, "quantize": quantize})


def trials(config: Config) -> QuantizeTrials:
    network = tiny_teacher()
    return QuantizeTrials(config, Teacher(network, read_facts(network, SIDES)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_init_samples": 10, "batch_size": 10},
        {"num_init_samples": 95, "batch_size": 10},
        {"weight_bits": 4, "reconstruction": {"steps": 2}},
        {"weight_bits": 4, "reconstruction": {"steps": 300}},
        {"weight_bits": 4, "rounding": "gptq"},
        {"weight_bits": 4, "rounding": "gptq", "num_init_samples": 10, "batch_size": 10},
        {"weight_bits": 4, "allocation": {"average_weight_bits": 4.5, "num_images": 100}},
        {"weight_bits": 4, "rounding": "gptq", "allocation": {"average_weight_bits": 4.5, "num_images": 16}},
    ],
    ids=str,
)
def test_what_is_foretold_is_what_it_takes(settings: dict[str, Any], machine: Machine) -> None:
    config = job(**settings)
    foretold = trials(config).quantize_seconds()
    before = machine.now
    machine.build()
    images = SimpleNamespace(images=range(WANTED))
    machine.quantize(nn.Identity(), images, config.quantize, "CPU")  # type: ignore[arg-type]
    assert foretold == pytest.approx(machine.now - before)


@pytest.mark.parametrize(("image_s", "largest"), [(0.1, 32), (0.01, 128), (0.001, 512), (1e-6, WANTED)])
def test_rounding_by_moments_is_tried_on_as_many_images_as_tell(image_s: float, largest: int, machine: Machine) -> None:
    machine.image_s = image_s
    tried = trials(job(weight_bits=4, rounding="gptq", batch_size=10))
    tried.quantize_seconds()
    assert machine.images[0] == tried.images // FEW_ITEMS
    assert machine.images[-1] == max(machine.images) == largest
    assert tried.more_bytes() == (WANTED - largest) * (IMAGE_BYTES + BETWEEN_BYTES)


@pytest.mark.parametrize(("settings", "between"), [({}, 0), ({"reconstruction": {"steps": 9}}, BETWEEN_BYTES)])
def test_memory_between_blocks_counts_where_they_are_run_one_by_one(
    settings: dict[str, Any], between: int, machine: Machine
) -> None:
    tried = trials(job(**settings))
    assert tried.more_bytes() == (WANTED - tried.images) * (IMAGE_BYTES + between)
    assert not machine.images


def test_student_of_the_first_trial_is_kept(machine: Machine) -> None:
    tried = trials(job())
    assert tried.student is tried.student
    assert len(machine.images) == 1
