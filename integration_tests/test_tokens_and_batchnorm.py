"""Networks that mix BatchNorm with tokens, (images, tokens, channels): its statistics reach the right channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfq_plugin.student import Student
from integration_tests.students import make_set, student_of


class Tokens(nn.Module):
    """A convolution with BatchNorm whose map becomes tokens; then groups of four tokens stand in the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.mixed, self.windowed, self.classifier = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.stem(images)).relu().flatten(2).transpose(1, 2)
        mixed = self.mixed(tokens).relu()
        windows = self.windowed(mixed.reshape(-1, 4, 5)).relu()
        return self.classifier(windows.reshape(len(images), -1, 5).mean(dim=1))  # type: ignore[no-any-return]


def teacher() -> nn.Module:
    torch.manual_seed(3)
    network = Tokens()
    network(make_set(64).images)  # statistics, by momentum
    for _ in range(60):
        network(make_set(64).images)
    return network.eval()


def mean_shift(network: nn.Module, student: Student) -> Tensor:
    """By how much the mean output of the layer on tokens is off, for each channel."""
    images, seen = make_set(64, seed=1).images, []
    for model in (network, student.network):
        layer = next(module for name, module in model.named_modules() if name.endswith("mixed"))
        handle = layer.register_forward_hook(lambda *args: seen.append(args[2].mean(dim=(0, 1))))
        model(images)
        handle.remove()
    return (seen[1] - seen[0]).abs()


@torch.no_grad()
def test_biases_of_layers_on_tokens_are_corrected_channel_by_channel() -> None:
    network = teacher()
    fields = {"weight_bits": 2, "first_last_bits": None, "rounding": "nearest"}
    plain, corrected = (student_of(network, make_set(64), bias_correction=how, **fields) for how in ("none", "auto"))
    biases = [student.network.get_parameter("network.mixed.bias") for student in (plain, corrected)]
    assert not torch.allclose(*biases, atol=1e-3)
    assert mean_shift(network, corrected).sum() < 0.7 * mean_shift(network, plain).sum()


def test_ranges_behind_windows_in_the_batch_axis_come_from_images() -> None:
    network = teacher()
    found, expected = (
        {site.layer: student.grid(site).step for site in student.sites if site.kind == "activation"}
        for student in (student_of(network, activation_range=how) for how in ("batchnorm", "mse"))
    )
    windowed = "windowed/linear/0"
    last = [layer for layer in found if layer not in {"stem/conv2d/0", windowed}]
    assert found.keys() == expected.keys()
    assert any(torch.equal(found[layer], expected[layer]) for layer in last)
