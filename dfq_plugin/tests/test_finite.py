"""What is not finite, or says nothing, is found and named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.finite import all_finite, broken_tensors, first_broken_layer, listed, silent_channels
from dfq_plugin.network_state import Snapshot
from dfq_plugin.testing import tiny_teacher

IMAGES = torch.zeros(2, 3, 8, 8)


def test_sound_network_has_nothing_to_tell() -> None:
    teacher = tiny_teacher()
    assert broken_tensors(teacher) == []
    assert silent_channels(teacher) == []
    assert first_broken_layer(teacher, IMAGES) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["conv2.weight", "fc.bias", "bn1.running_mean", "bn2.running_var"])
def test_broken_tensor_is_named(name: str, value: float) -> None:
    teacher = tiny_teacher()
    teacher.state_dict()[name].view(-1)[1] = value
    assert broken_tensors(teacher)[0] == name


def test_variance_below_zero_is_named() -> None:
    teacher = tiny_teacher()
    teacher.state_dict()["bn2.running_var"][3] = -1e-3
    assert broken_tensors(teacher) == ["bn2.running_var (below zero)"]


def test_channels_that_never_vary_are_named() -> None:
    teacher = tiny_teacher()
    teacher.state_dict()["bn1.running_var"][:2] = 0.0
    teacher.conv2.weight.data[5] = 0.0
    transposed = nn.ConvTranspose2d(2, 3, 1)
    transposed.weight.data[:, 1] = 0.0
    network = nn.Sequential(teacher, transposed)
    assert silent_channels(network) == [
        "0.bn1 (2 of 8 channels without variance)",
        "0.conv2 (1 of 16 channels have no weight)",
        "1 (1 of 3 channels have no weight)",
    ]


def test_first_broken_layer_is_the_first_to_run_and_the_network_stays_as_it_was() -> None:
    teacher = tiny_teacher()
    teacher.bn2.weight.data[0] = float("nan")
    teacher.fc.bias.data[0] = float("nan")
    before = Snapshot(teacher)
    assert first_broken_layer(teacher, IMAGES) == "bn2"
    assert before.restore() == []


def test_images_and_operators_without_a_layer_are_told_apart() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.conv(images).log().mean((2, 3))
            return logits

    assert first_broken_layer(Log(), IMAGES) == "an operator between the layers"
    assert first_broken_layer(tiny_teacher(), IMAGES / 0.0) == "the images themselves"


def test_long_lists_are_cut() -> None:
    assert listed([str(number) for number in range(8)]) == "0, 1, 2, 3, 4 and 3 more"
    assert listed(["a", "b"]) == "a, b"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 63, 64, 199])
def test_one_broken_value_is_found_wherever_it_is(value: float, at: int) -> None:
    values = torch.zeros(200, 2)
    assert all_finite(values)
    values[at, 1] = value
    assert not all_finite(values)


def test_single_numbers_are_looked_at() -> None:
    assert all_finite(torch.tensor(1.0))
    assert not all_finite(torch.tensor(float("nan")))
