"""Folding BatchNorm changes nothing but its place, and stays away where it would change something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.tests.quantization.networks import filled

IMAGES = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Runs its layers by a function, so that the top level is no ``nn.Sequential``."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.run(self, images)
        return output


def in_turn(network: Any, images: Tensor) -> Any:
    for layer in network.children():
        images = layer(images)
    return images


def batchnorms(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def largest_difference(left: nn.Module, right: nn.Module, images: Tensor = IMAGES) -> float:
    with torch.no_grad():
        expected = right(images)
        return float((left(images) - expected).abs().max() / expected.abs().max())


FOLDABLE = {
    "conv": lambda: Net(in_turn, conv=nn.Conv2d(4, 6, 3, bias=False), norm=nn.BatchNorm2d(6)),
    "conv_with_bias": lambda: Net(in_turn, conv=nn.Conv2d(4, 6, 3), norm=nn.BatchNorm2d(6)),
    "depthwise": lambda: Net(in_turn, conv=nn.Conv2d(4, 4, 3, groups=4, bias=False), norm=nn.BatchNorm2d(4)),
    "depthwise_multiplier": lambda: Net(in_turn, conv=nn.Conv2d(4, 8, 3, groups=4), norm=nn.BatchNorm2d(8)),
    "grouped": lambda: Net(in_turn, conv=nn.Conv2d(4, 6, 3, groups=2, bias=False), norm=nn.BatchNorm2d(6)),
    "transposed": lambda: Net(in_turn, conv=nn.ConvTranspose2d(4, 6, 3, bias=False), norm=nn.BatchNorm2d(6)),
    "transposed_grouped": lambda: Net(in_turn, conv=nn.ConvTranspose2d(4, 6, 3, groups=2), norm=nn.BatchNorm2d(6)),
    "linear": lambda: Net(
        in_turn, flat=nn.Flatten(), fc=nn.Linear(144, 6), norm=nn.BatchNorm1d(6), last=nn.Linear(6, 2, bias=False)
    ),
    "conv_in_one_dimension": lambda: Net(
        in_turn, flat=nn.Flatten(start_dim=2), conv=nn.Conv1d(4, 6, 3), norm=nn.BatchNorm1d(6)
    ),
    "without_affine": lambda: Net(in_turn, conv=nn.Conv2d(4, 6, 3), norm=nn.BatchNorm2d(6, affine=False)),
}


@pytest.mark.parametrize("make", FOLDABLE.values(), ids=FOLDABLE.keys())
def test_prepare_folds_batchnorm_and_keeps_the_output(make: Callable[[], nn.Module]) -> None:
    teacher = filled(make())
    prepared = prepare(teacher, IMAGES[:1])
    assert len(batchnorms(teacher)) == 1
    assert batchnorms(prepared) == []
    assert largest_difference(prepared, teacher) < 1e-5


def two_readers(network: Any, images: Tensor) -> Any:
    low = network.conv(images)
    return network.norm(low) + F.relu(low)


def norm_read_first(network: Any, images: Tensor) -> Any:
    return network.conv(network.norm(images))


def shared_conv(network: Any, images: Tensor) -> Any:
    return network.conv(network.norm(network.conv(images)))


def shared_norm(network: Any, images: Tensor) -> Any:
    return network.norm(network.other(network.norm(network.conv(images))))


def tokens(network: Any, images: Tensor) -> Any:
    return network.norm(network.fc(images.flatten(2)))  # (N, 4, 4): normalises the axis that the layer did not make


def own_kernel(network: Any, images: Tensor) -> Any:
    return network.norm(F.conv2d(images, network.holder.kernel))


def holder() -> nn.Module:
    module = nn.Module()
    module.register_parameter("kernel", nn.Parameter(torch.ones(4, 4, 3, 3)))
    return module


def same_conv(channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(4, channels, 3, padding=1)


UNFOLDABLE = {  # into the layer in front of it: these become a depthwise convolution
    "convolution_has_two_readers": lambda: Net(two_readers, conv=same_conv(), norm=nn.BatchNorm2d(4)),
    "batchnorm_comes_first": lambda: Net(norm_read_first, norm=nn.BatchNorm2d(4), conv=same_conv()),
    "convolution_is_shared": lambda: Net(shared_conv, conv=same_conv(), norm=nn.BatchNorm2d(4)),
    "batchnorm_is_shared": lambda: Net(shared_norm, conv=same_conv(), other=same_conv(), norm=nn.BatchNorm2d(4)),
    "weight_belongs_to_no_layer": lambda: Net(own_kernel, holder=holder(), norm=nn.BatchNorm2d(4)),
}
KEPT = {
    "linear_works_on_tokens": lambda: Net(tokens, fc=nn.Linear(36, 4), norm=nn.BatchNorm1d(4)),
    "statistics_are_of_the_batch": lambda: Net(
        in_turn, conv=same_conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "nothing_is_stored": lambda: Net(
        in_turn, conv=same_conv(), norm=nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    ),
}


@pytest.mark.parametrize("make", UNFOLDABLE.values(), ids=UNFOLDABLE.keys())
def test_prepare_makes_batchnorm_a_depthwise_convolution_when(make: Callable[[], nn.Module]) -> None:
    teacher = filled(make())
    prepared = prepare(teacher, IMAGES[:1])
    assert batchnorms(prepared) == []
    made = prepared.network.norm
    assert isinstance(made, nn.Conv2d)
    assert made.groups == 4
    assert made.weight.shape == (4, 1, 1, 1)
    assert largest_difference(prepared, teacher) < 1e-5


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_prepare_keeps_batchnorm_when(make: Callable[[], nn.Module]) -> None:
    teacher = filled(make())
    prepared = prepare(teacher, IMAGES[:1])
    assert batchnorms(prepared) == ["network.norm"]
    assert largest_difference(prepared, teacher) < 1e-5


class NormAndRelu(nn.BatchNorm2d):
    """A BatchNorm that calls a child of its own afterwards, as timm's do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(images))
        return activated


class NormAndDouble(nn.BatchNorm2d):
    """A BatchNorm that does more than its children say."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 2


def test_prepare_keeps_what_a_derived_batchnorm_does_afterwards() -> None:
    teacher = filled(Net(in_turn, first=NormAndRelu(4), conv=same_conv(6), second=NormAndRelu(6)))
    prepared = prepare(teacher, IMAGES[:1])
    assert batchnorms(prepared) == []
    assert largest_difference(prepared, teacher) < 1e-5
    assert prepared(IMAGES).min() == 0


def test_prepare_keeps_a_batchnorm_whose_class_it_cannot_take_apart() -> None:
    teacher = filled(Net(in_turn, first=NormAndDouble(4), conv=same_conv(6), second=NormAndDouble(6)))
    prepared = prepare(teacher, IMAGES[:1])
    assert batchnorms(prepared) == ["network.first", "network.second"]
    assert largest_difference(prepared, teacher) < 1e-5


def test_prepare_folds_a_batchnorm_of_the_rows_that_a_linear_layer_made() -> None:
    def rows(network: Any, images: Tensor) -> Any:
        tokens = network.fc(images.flatten(2))
        return network.norm(tokens.flatten(0, 1)).reshape_as(tokens)

    teacher = filled(Net(rows, fc=nn.Linear(36, 5), norm=nn.BatchNorm1d(5)))
    prepared = prepare(teacher, IMAGES[:1])
    assert batchnorms(prepared) == []
    assert largest_difference(prepared, teacher) < 1e-5


def test_prepare_folds_the_batchnorm_behind_a_layer_when_there_is_one_in_front_too() -> None:
    teacher = filled(Net(in_turn, first=nn.BatchNorm2d(4), conv=same_conv(6), second=nn.BatchNorm2d(6)))
    prepared = prepare(teacher, IMAGES[:1])
    assert isinstance(prepared.network.first, nn.Conv2d)
    assert isinstance(prepared.network.second, nn.Identity)
    assert largest_difference(prepared, teacher) < 1e-5


class TestSequential:
    def make(self) -> nn.Module:
        return filled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))

    def test_is_folded_as_any_other(self) -> None:
        teacher = self.make()
        prepared = prepare(teacher, IMAGES[:1])
        assert batchnorms(prepared) == []
        assert largest_difference(prepared, teacher) < 1e-5

    def test_parameters_keep_their_names_below_it(self) -> None:
        names = [name for name, _ in prepare(self.make(), IMAGES[:1]).network.named_parameters()]
        assert names == ["0.weight", "0.bias"]


def test_prepare_leaves_the_teacher_as_it_was() -> None:
    teacher = filled(FOLDABLE["conv"]()).train()
    before = Snapshot(teacher)
    prepared = prepare(teacher, IMAGES[:1])
    assert before.restore() == []
    assert teacher.training
    assert not prepared.training
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_prepare_keeps_the_type_of_the_weights() -> None:
    teacher = filled(Net(in_turn, first=nn.BatchNorm2d(4), conv=same_conv(6), second=nn.BatchNorm2d(6))).double()
    prepared = prepare(teacher, IMAGES[:1].double())
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.float64}


def test_prepare_refuses_a_network_that_gives_several_tensors() -> None:
    teacher = Net(lambda network, images: (network.conv(images), images), conv=same_conv())
    with pytest.raises(UnsupportedModelError, match="returns a tuple"):
        prepare(teacher, IMAGES[:1])
