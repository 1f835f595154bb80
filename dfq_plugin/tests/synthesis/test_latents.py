from __future__ import annotations

import pytest
import torch
from torch import nn

from dfq_plugin.synthesis.descent import PixelSettings
from dfq_plugin.synthesis.latents import LatentGenerator, Latents
from dfq_plugin.synthesis.schedules import constant

SETTINGS = PixelSettings("probe", steps=1, batch_size=2, learning_rate=0.5, rule=constant)


class TestLatentGenerator:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 12, 20), (2, 9, 31), (4, 5, 7)])
    def test_images_have_the_asked_for_shape_and_unit_channels(self, shape: tuple[int, int, int]) -> None:
        images = LatentGenerator(shape, 16)(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
        assert tuple(images.shape) == (3, *shape)
        assert images.mean(dim=(0, 2, 3)).abs().max().item() < 1e-4
        assert images.var(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * shape[0], abs=1e-2)

    def test_a_single_image_can_be_made(self) -> None:
        assert torch.isfinite(LatentGenerator((1, 8, 8), 4)(torch.ones(1, 4))).all()

    def test_layers_at_224_pixels_are_the_papers(self) -> None:
        with torch.device("meta"):
            network = LatentGenerator((3, 224, 224), 256)
        assert network.linear.out_features == 128 * 56 * 56
        found = [tuple(layer.weight.shape) for layer in network.layers if isinstance(layer, nn.Conv2d)]
        assert found == [(64, 128, 3, 3), (3, 64, 3, 3)]
        assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(103e6, rel=0.01)

    @pytest.mark.parametrize(("size", "start", "doublings"), [(32, 8, 2), (448, 56, 3), (300, 38, 3)])
    def test_larger_images_take_more_doublings_not_a_larger_start(self, size: int, start: int, doublings: int) -> None:
        with torch.device("meta"):
            network = LatentGenerator((3, size, size), 8)
        assert network.linear.out_features == 128 * start**2
        assert sum(isinstance(layer, nn.Upsample) for layer in network.layers) == doublings


class TestLatents:
    def test_both_are_stepped_and_the_network_decays(self) -> None:
        network = nn.Linear(2, 3, bias=False)
        nn.init.zeros_(network.weight)
        latents = Latents(SETTINGS, torch.zeros(1, 2), network, learning_rate=0.1, decay=0.5, decay_steps=2)
        sizes = []
        for _ in range(4):
            before = network.weight.detach().clone()
            latents.step([torch.ones(1, 2), torch.ones(3, 2)], loss=0.0)
            sizes.append((before - network.weight).max().item())
        assert latents.tensors[0].detach().tolist() == [pytest.approx([-2.0, -2.0], rel=1e-4)]  # four steps of 0.5
        assert sizes == pytest.approx([0.1, 0.1, 0.05, 0.05], rel=1e-3)

    def test_loss_reaches_the_rule_of_the_latents(self) -> None:
        told: list[float] = []
        settings = PixelSettings("probe", steps=1, batch_size=1, learning_rate=0.5, rule=lambda _: told.append)
        latents = Latents(settings, torch.zeros(1, 2), nn.Linear(2, 2), learning_rate=0.1, decay=1.0, decay_steps=1)
        latents.step([torch.zeros_like(tensor) for tensor in latents.tensors], loss=3.5)
        assert told == [3.5]

    def test_gradients_reach_latents_and_network(self) -> None:
        latents = Latents(
            SETTINGS,
            torch.randn(2, 4, generator=torch.Generator().manual_seed(0)),
            LatentGenerator((1, 8, 8), 4),
            learning_rate=0.1,
            decay=1.0,
            decay_steps=1,
        )
        weight = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((latents.images() * weight).sum(), latents.tensors)
        assert gradients[0].shape == (2, 4)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert gradients[0].abs().sum() > 0
