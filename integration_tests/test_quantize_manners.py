"""What quantizing must not touch: the terminal, the teacher, the random state."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from nncf.common.logging.track_progress import track
from torch import nn

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization import nncf_steps
from dfq_plugin.testing import tiny_teacher
from integration_tests.students import by_layer, make_set, student_of, tiny_student

pytestmark = pytest.mark.usefixtures("kernels")


class TestQuiet:
    def test_nothing_but_log_lines_is_written_when_nobody_watches(self, capfd: pytest.CaptureFixture[str]) -> None:
        student_of(tiny_teacher(), num_init_samples=1000, bias_correction="images")
        written = "".join(capfd.readouterr())
        assert "Statistics collection" not in written
        assert "Fast Bias correction" not in written
        assert "Dataset contains only" not in written

    def test_bars_go_to_standard_error_on_a_terminal(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nncf_steps, "on_terminal", lambda: True)
        student_of(tiny_teacher())
        out, err = capfd.readouterr()
        assert "Statistics collection" in err
        assert "Statistics collection" not in out

    def test_nncf_draws_its_own_bars_again_afterwards(self) -> None:
        before = track.__init__
        with pytest.raises(UnsupportedModelError):
            student_of(nn.Sequential(nn.ReLU(), nn.PReLU(3)).eval())
        assert track.__init__ is before


class TestUntouched:
    def test_teacher_is_left_as_it_was(self) -> None:
        teacher = tiny_teacher().train()
        teacher.bn1.eval()
        before = Snapshot(teacher)
        student = student_of(teacher, weight_bits=4, activation_bits=4)
        assert before.restore() == []
        assert not any(name.startswith("__nncf") for name, _ in teacher.named_modules())
        assert "forward" not in vars(teacher)
        teacher.conv2.weight.data.zero_()
        assert student.network.get_parameter("network.conv2.weight").abs().max() > 0

    def test_images_are_left_as_they_were(self) -> None:
        synthetic = make_set()
        student_of(tiny_teacher(), synthetic)
        assert torch.equal(synthetic.images, make_set().images)

    def test_global_random_states_are_not_used(self) -> None:
        def states() -> tuple[Any, ...]:
            return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

        before = states()
        student_of(tiny_teacher(), weight_bits=4, activation_bits=4)
        assert states() == before

    def test_the_same_request_gives_the_same_student(self) -> None:
        one, two = (student_of(tiny_teacher(), weight_bits=3, activation_bits=3) for _ in range(2))
        images = make_set(seed=1).images
        assert torch.equal(one(images), two(images))

    def test_student_is_finished(self) -> None:
        student = student_of(tiny_teacher(), weight_bits=4, activation_bits=4)
        assert not student.training
        assert not any(parameter.requires_grad for parameter in student.parameters())
        assert all(quantizer.is_enabled_quantization() for _, quantizer in student.quantizers())
        before = {name: value.clone() for name, value in student.state_dict().items()}
        student.snap_biases()  # they are on their grid already
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())

    def test_a_deep_copy_answers_alike_and_goes_its_own_way(self) -> None:
        student, images = tiny_student(4), make_set().images
        twin = copy.deepcopy(student)
        expected = student(images)
        assert torch.equal(twin(images), expected)
        twin.quantizer(by_layer(twin)["relu1/relu/0"].name).scale.data.mul_(0.3)
        assert not torch.equal(twin(images), expected)
        assert torch.equal(student(images), expected)
