"""Fine-tuning that was killed goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dfq_plugin.batches import Batch, BatchSource, FixedBatches
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning import History, finetune
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.finetuning.samples import (
    make_clipped_student,
    make_set,
    make_student,
    run,
    settings,
    weights_of,
)


class KilledError(Exception):
    """What kills a run."""


class Killed(FixedBatches):
    """Batches that end in the middle of the third epoch, the first time."""

    def next_batch(self, student: nn.Module) -> Batch:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        return super().next_batch(student)

    left = 5


CHOICES: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "schedule": "steps", "milestones": (1, 3), "lr": 1e-3, "weight_decay": 1e-4},
    "shifted": {"augment": "shift", "losses": {"kl": 1.0, "feature": 2.0}},
    "recalibrated": {"calibration_batches": 3},
}


class TestCheckpoint:
    @pytest.mark.parametrize("choice", CHOICES)
    def test_lets_a_killed_run_end_as_an_unbroken_one_bit_for_bit(
        self, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = settings(epochs=4, **CHOICES[choice])
        (unbroken, clip), (killed, _), (resumed, _) = (make_clipped_student(monkeypatch) for _ in range(3))

        def on(student: Student, source: SyntheticSet | BatchSource, checkpoint: Path | None = None) -> History:
            return finetune(tiny_teacher(), student, source, chosen, checkpoint)

        expected = on(unbroken, make_set())
        place = tmp_path / "checkpoint.safetensors"
        source = Killed(make_set(), chosen.batch_size, chosen.seed, augment=chosen.augment)
        source.left = 5 + chosen.calibration_batches  # two whole epochs of two batches, and one batch more
        with pytest.raises(KilledError):
            on(killed, source, place)
        assert place.exists()
        assert on(resumed, make_set(), place) == expected
        assert not place.exists()
        after = resumed.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in unbroken.state_dict().items())
        assert clip.scale.item() != 2.0

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ("settings", "other settings; delete it"),
            ("student", "other student; delete"),
            ("images", "of other images"),
        ],
    )
    def test_of_another_run_is_refused(self, other: str, message: str, tmp_path: Path) -> None:
        place = tmp_path / "checkpoint.safetensors"
        source = Killed(make_set(), 4, 0, augment="none")
        with pytest.raises(KilledError):
            finetune(tiny_teacher(), make_student(), source, settings(epochs=4), place)
        student, images = make_student(), make_set(9 if other == "images" else 8)
        if other == "student":
            student.network.get_parameter("fc.bias")[0] += 1.0
        before = weights_of(student)
        with pytest.raises(InputError, match=message):
            finetune(tiny_teacher(), student, images, settings(epochs=5 if other == "settings" else 4), place)
        assert all(torch.equal(value, before[name]) for name, value in weights_of(student).items())

    def test_is_not_written_unless_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        run(make_student())
        assert list(tmp_path.iterdir()) == []
