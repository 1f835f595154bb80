from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dfq_plugin.network_state import Snapshot
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.folding import FoldedBatchNorm, computing_in_bfloat16, folded_copy
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

SHAPE = (3, 8, 8)


def conv(inputs: int = 3, outputs: int = 4, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)  # type: ignore[arg-type]


def norm(layer: nn.BatchNorm2d | None = None) -> nn.BatchNorm2d:
    """A layer that has seen something, with scales of both signs."""
    layer = nn.BatchNorm2d(4) if layer is None else layer
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        layer.running_mean = torch.randn(4, generator=random)
        layer.running_var = 0.5 + torch.rand(4, generator=random)
        if layer.affine:
            layer.weight.copy_(torch.tensor([0.5, -1.5, 1.0, 2.0]))
            layer.bias.copy_(torch.randn(4, generator=random))
    return layer


class Network(nn.Module):
    """A convolution, BatchNorm, what a test puts behind them, and a classifier."""

    def __init__(self, convolution: nn.Module | None = None, layer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = conv() if convolution is None else convolution
        self.norm = norm() if layer is None else layer
        self.head = nn.Linear(4, 5)

    def body(self, images: Tensor) -> Tensor:
        values: Tensor = self.norm(self.conv(images))
        return values

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


class WritesOver(Network):
    def body(self, images: Tensor) -> Tensor:
        values = super().body(images)
        values += images[:, :1]
        return F.relu(values, inplace=True)


class ReadsTwice(Network):
    def body(self, images: Tensor) -> Tensor:
        values = self.conv(images)
        found: Tensor = self.norm(values) + values
        return found


class RunsConvolutionTwice(Network):
    def body(self, images: Tensor) -> Tensor:
        values: Tensor = self.norm(self.conv(images)) + self.conv(images.flip(3))
        return values


class RunsNormTwice(Network):
    def body(self, images: Tensor) -> Tensor:
        values: Tensor = self.norm(self.norm(self.conv(images)) + 1)
        return values


class HidesItsNorm(Network):
    """Reaches its BatchNorm layer past the attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [self.norm]

    def body(self, images: Tensor) -> Tensor:
        values: Tensor = self.hidden[0](self.conv(images))
        return values


class Standardised(nn.Conv2d):
    """A convolution that does not use its weight as it is."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight / self.weight.std(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(images, weight, self.bias, padding=1)


class Activated(nn.BatchNorm2d):
    """A BatchNorm layer with an activation in it."""

    def __init__(self) -> None:
        super().__init__(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.act(super().forward(inputs))
        return values


class Doubling(nn.BatchNorm2d):
    """A BatchNorm layer that does something else as well."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def count(network: nn.Module) -> int:
    return sum(isinstance(layer, FoldedBatchNorm) for layer in network.modules())


def seen_by(network: nn.Module, teacher: nn.Module, images: Tensor, *, per_image: bool) -> tuple[Tensor, ...]:
    """Outputs, moments one after the other, and the gradient of a loss of all of them."""
    pixels = images.clone().requires_grad_()
    with tap_batchnorm(network, read_facts(teacher, SHAPE), per_image=per_image) as seen:
        logits = network(pixels)
    moments = torch.cat([moment.flatten() for entry in seen for moment in (entry.mean, entry.variance)])
    loss = moments.square().mean() + logits.square().mean()
    return logits.detach(), moments.detach(), torch.autograd.grad(loss, pixels)[0]


def dead(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        layer.weight[2] = 1e-5
    return layer


FOLDED: dict[str, Callable[[], nn.Module]] = {
    "plain": Network,
    "without bias": lambda: Network(conv(bias=False)),
    "grouped": lambda: Network(nn.Sequential(conv(3, 4), conv(4, 4, groups=2))),
    "without affine": lambda: Network(layer=norm(nn.BatchNorm2d(4, affine=False))),
    "with an activation in it": lambda: Network(layer=norm(Activated())),
    "then written over": WritesOver,
}
LEFT: dict[str, Callable[[], nn.Module]] = {
    "output read twice": ReadsTwice,
    "convolution runs twice": RunsConvolutionTwice,
    "norm runs twice": RunsNormTwice,
    "norm reached another way": HidesItsNorm,
    "weight not used as it is": lambda: Network(Standardised(3, 4, 3)),
    "weight computed": lambda: Network(parametrizations.weight_norm(conv())),
    "norm does more": lambda: Network(layer=norm(Doubling(4))),
    "a channel almost dead": lambda: Network(layer=dead(norm())),
    "transposed": lambda: Network(nn.ConvTranspose2d(3, 4, 3, padding=1)),
}


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", [*FOLDED, *LEFT])
def test_copy_is_the_same_to_whoever_watches_it(name: str, per_image: bool) -> None:
    teacher = {**FOLDED, **LEFT}[name]().double().eval()
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    copied = folded_copy(teacher, read_facts(teacher, SHAPE))
    assert count(copied) == (name in FOLDED)
    expected = seen_by(teacher, teacher, images, per_image=per_image)
    for found, wanted in zip(seen_by(copied, teacher, images, per_image=per_image), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_every_layer_of_a_usual_network_is_folded() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, SHAPE)
    assert count(folded_copy(teacher, facts)) == len(facts.batchnorm_layers)


def test_only_a_layer_that_is_written_over_passes_on_a_copy() -> None:
    apart = []
    for teacher in (Network().eval(), WritesOver().eval()):
        layer = folded_copy(teacher, read_facts(teacher, SHAPE)).get_submodule("norm")
        assert isinstance(layer, FoldedBatchNorm)
        apart.append(layer.apart)
    assert apart == [False, True]


def test_single_precision_gives_the_same_loss_and_gradient() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, SHAPE)
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    results = []
    for network in (teacher, folded_copy(teacher, facts)):
        pixels = images.clone().requires_grad_()
        with tap_batchnorm(network, facts) as seen:
            network(pixels)
        loss = batchnorm_loss(seen)
        results.append((loss.detach(), torch.autograd.grad(loss, pixels)[0]))
    for found, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_teacher_is_left_as_it_is() -> None:
    teacher = WritesOver().train()
    before, state = Snapshot(teacher), torch.get_rng_state()
    folded_copy(teacher, read_facts(teacher, SHAPE))
    assert not before.restore()
    assert torch.equal(torch.get_rng_state(), state)


def test_copy_is_frozen_and_has_no_hooks() -> None:
    teacher = Network().train()
    copied = folded_copy(teacher, read_facts(teacher, SHAPE))
    assert not copied.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in copied.modules())


def test_layers_with_hooks_of_their_own_are_left() -> None:
    teacher = Network().eval()
    teacher.conv.register_forward_hook(lambda _layer, _inputs, output: 2 * output)
    facts = read_facts(teacher, SHAPE)
    copied, images = folded_copy(teacher, facts), torch.ones(1, *SHAPE)
    assert count(copied) == 0
    torch.testing.assert_close(copied(images), teacher(images))


def test_layer_of_two_names_is_replaced_under_both() -> None:
    teacher = Network().eval()
    teacher.again = teacher.norm
    copied, images = folded_copy(teacher, read_facts(teacher, SHAPE)), torch.ones(1, *SHAPE)
    assert copied.again is copied.norm
    assert isinstance(copied.again, FoldedBatchNorm)
    torch.testing.assert_close(copied(images), teacher(images))


def test_weight_that_another_layer_shares_stays_its_own() -> None:
    teacher = copy.deepcopy(Network()).eval()
    teacher.other = conv()
    assert isinstance(teacher.conv, nn.Conv2d)
    teacher.other.weight = teacher.conv.weight
    copied = folded_copy(teacher, read_facts(teacher, SHAPE))
    assert isinstance(copied.other, nn.Conv2d)
    assert torch.equal(copied.other.weight, teacher.conv.weight)


def test_bfloat16_gives_nearly_the_same_in_single_precision() -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, SHAPE)
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    rough = computing_in_bfloat16(folded_copy(teacher, facts))
    exact, found = (seen_by(network, teacher, images, per_image=False) for network in (teacher, rough))
    for wanted, got in zip(exact, found, strict=True):
        assert got.dtype == torch.float32
        gap = (got - wanted).norm() / wanted.norm()
        assert 1e-5 < gap < 0.05  # it was rounded, and not by much
