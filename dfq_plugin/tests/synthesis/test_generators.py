"""The generator networks: the papers' sizes, any other size, and what labels do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.synthesis.generators import (
    ClassNorm,
    ImageGenerator,
    LabelGenerator,
    double_and_convolve,
    initialised,
    plan_upsampling,
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "doublings", "start"),
    [
        pytest.param((32, 32), 2, (8, 8), id="the_papers_for_cifar"),
        pytest.param((224, 224), 2, (56, 56), id="the_papers_for_imagenet"),
        ((8, 8), 2, (2, 2)),
        ((225, 225), 3, (29, 29)),
        ((299, 299), 3, (38, 38)),
        ((600, 100), 4, (38, 7)),
        ((30, 47), 2, (8, 12)),
    ],
)
def test_upsampling_covers_the_image_from_a_small_map(
    size: tuple[int, int], doublings: int, start: tuple[int, int]
) -> None:
    assert plan_upsampling(*size) == (doublings, start)
    assert all(small * 2**doublings >= full for small, full in zip(start, size, strict=True))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (5, 30, 17), (3, 9, 40)])
@pytest.mark.parametrize("num_classes", [None, 7])
def test_images_have_the_shape_and_are_normalised_per_channel(
    shape: tuple[int, int, int], num_classes: int | None
) -> None:
    images = ImageGenerator(shape, 10, num_classes)(draw(4, 10), torch.eye(7)[:4])
    assert images.shape == (4, *shape)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert images.var(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * shape[0], abs=0.02)


def test_network_is_the_papers_at_32_pixels() -> None:
    parameters = {
        name: tuple(p.shape) for name, p in LabelGenerator((3, 32, 32), 100, 10, large=False).named_parameters()
    }
    assert parameters["embedding.weight"] == (10, 100)
    assert parameters["network.linear.weight"] == (128 * 8 * 8, 100)
    assert [shape for name, shape in parameters.items() if len(shape) == 4] == [
        *((128, 128, 3, 3), (64, 128, 3, 3)),
        (3, 64, 3, 3),
    ]
    assert sum(p.numel() for p in LabelGenerator((3, 32, 32), 100, 10, large=False).parameters()) == pytest.approx(
        1.05e6, rel=0.01
    )


def test_network_is_the_papers_at_224_pixels() -> None:
    with torch.device("meta"):
        parameters = dict(LabelGenerator((3, 224, 224), 100, 1000, large=True).named_parameters())
    scales = {name: tuple(p.shape) for name, p in parameters.items() if "scale" in name}
    assert list(scales.values()) == [(1000, 128), (1000, 128), (1000, 64)]
    assert "embedding.weight" not in parameters
    others = sum(p.numel() for name, p in parameters.items() if "norm" not in name)
    assert others == pytest.approx(40.8e6, rel=0.01)


def doubled(values: Tensor) -> Tensor:
    return values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 5, 1, 3)])
def test_doubling_and_convolving_at_once_is_the_same_as_in_turn(shape: tuple[int, ...]) -> None:
    values, weight, bias = draw(*shape).double(), draw(6, shape[1], 3, 3).double(), draw(6).double()
    expected = F.conv2d(doubled(values), weight, bias, padding=1)
    assert torch.allclose(double_and_convolve(values, weight, bias), expected, atol=1e-12)
    assert torch.allclose(double_and_convolve(values, weight, None), expected - bias.view(6, 1, 1), atol=1e-12)


def test_output_equals_the_network_written_out() -> None:
    generator = initialised(lambda: ImageGenerator((3, 7, 8), 5), torch.Generator().manual_seed(1))
    latents, none = draw(4, 5), torch.zeros(4, 1)

    def norm(values: Tensor, eps: float) -> Tensor:
        mean, variance = values.mean(dim=(0, 2, 3), keepdim=True), values.var(dim=(0, 2, 3), correction=0, keepdim=True)
        return (values - mean) / (variance + eps).sqrt()

    def convolved(values: Tensor, convolution: Any) -> Tensor:
        return F.conv2d(doubled(values), convolution.weight, convolution.bias, padding=1)

    first, second = generator.convolutions
    values = norm(generator.linear(latents).view(4, 128, 2, 2), 1e-5)
    values = F.leaky_relu(norm(convolved(values, first), 0.8), 0.2)
    values = F.leaky_relu(norm(convolved(values, second), 0.8), 0.2)
    expected = norm(generator.last(values)[:, :, :7, :8].tanh(), 1e-5)
    assert torch.allclose(generator(latents, none), expected, atol=1e-4)


class TestClassNorm:
    def test_gives_each_class_its_own_scale_and_shift(self) -> None:
        norm = ClassNorm(2, num_classes=2)
        assert norm.scale is not None
        assert norm.shift is not None
        with torch.no_grad():
            norm.scale.copy_(torch.tensor([[1.0, 10.0], [2.0, 20.0]]))
            norm.shift.copy_(torch.tensor([[0.0, 0.0], [5.0, 7.0]]))
        values = draw(3, 2, 4, 4)
        plain = F.batch_norm(values, None, None, training=True)
        found = norm(values, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
        assert torch.allclose(found[0], plain[0] * torch.tensor([1.0, 10.0]).view(2, 1, 1), atol=1e-5)
        assert torch.allclose(found[1, 1], plain[1, 1] * 20 + 7, atol=1e-5)
        assert torch.allclose(found[2, 0], plain[2, 0] * 1.5 + 2.5, atol=1e-5)

    def test_starts_with_the_same_scale_one_and_shift_zero_for_all(self) -> None:
        values = draw(3, 2, 4, 4)
        expected = F.batch_norm(values, None, None, training=True)
        assert torch.allclose(ClassNorm(2, 4)(values, torch.eye(4)[:3]), expected)


class TestLabels:
    def test_choose_the_embedding_that_noise_is_multiplied_with_in_small_images(self) -> None:
        generator = LabelGenerator((3, 8, 8), 5, 3, large=False)
        assert generator.embedding is not None
        noise, labels = draw(4, 5), torch.tensor([2, 0, 1, 2])
        expected = generator.network(generator.embedding.weight[labels] * noise, torch.zeros(4, 3))
        assert torch.equal(generator(noise, labels), expected)

    def test_choose_scales_and_shifts_in_large_images(self) -> None:
        generator = LabelGenerator((3, 8, 8), 5, 3, large=True)
        noise, labels = draw(4, 5), torch.tensor([2, 0, 1, 2])
        with torch.no_grad():
            generator.network.first_norm.scale.copy_(draw(3, 128))  # type: ignore[union-attr]
        expected = generator.network(noise, torch.eye(3)[labels])
        assert torch.equal(generator(noise, labels), expected)
        assert not torch.equal(generator(noise, labels.flip(0)), expected)


def test_first_weights_come_from_the_generator_alone() -> None:
    def make(seed: int) -> Tensor:
        return initialised(lambda: nn.Linear(3, 2), torch.Generator().manual_seed(seed)).weight

    state = torch.get_rng_state()
    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))
    assert torch.equal(torch.get_rng_state(), state)
    random = torch.Generator().manual_seed(1)
    before = random.get_state()
    initialised(lambda: nn.Linear(3, 2), random)
    assert torch.equal(random.get_state(), before)
