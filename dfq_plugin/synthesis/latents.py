"""Images as the output of a small generator, whose weights are optimised together with its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from dfq_plugin.synthesis.descent import PixelSettings, fast_layout
from dfq_plugin.synthesis.generators import plan_upsampling

WIDE, NARROW = 128, 64  # channels
SLOPE = 0.2  # of the leaky ReLU


class LatentGenerator(nn.Module):
    """Latents to images that have mean 0 and variance 1 in every channel over the batch: GENIE's generator.

    A linear layer makes a small map, which is doubled and convolved until it has the size of the image; what a doubling
    overshoots is cut. Up to 224 pixels there are two doublings, as in the paper.

    Args:
        input_shape: (C, H, W) of one image.
        latent_size: Width of a latent.
    """

    def __init__(self, input_shape: tuple[int, int, int], latent_size: int) -> None:
        super().__init__()
        channels, *self.size = input_shape
        doublings, self.start = plan_upsampling(*self.size)
        self.linear = nn.Linear(latent_size, WIDE * math.prod(self.start))
        layers: list[nn.Module] = [nn.BatchNorm2d(WIDE)]
        for before, after in pairwise([WIDE] * (doublings - 1) + [NARROW]):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(SLOPE)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(NARROW, channels, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.last_norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Give images, (N, C, H, W), for latents, (N, latent_size)."""
        height, width = self.size
        values = fast_layout(self.linear(latents).view(-1, WIDE, *self.start))
        images: Tensor = self.last_norm(self.layers(values)[:, :, :height, :width])
        return images


class Latents:
    """Latents and a generator as the unknowns: Adam steps on both, each with its own step size.

    Args:
        settings: Number and size of the steps on the latents.
        latents: (N, latent_size), on the device of the network.
        network: Makes the images; changed in place.
        learning_rate: Step size at the start for the network.
        decay: What it is multiplied with every ``decay_steps`` steps.
        decay_steps: How many steps that are.
    """

    def __init__(
        self,
        settings: PixelSettings,
        latents: Tensor,
        network: nn.Module,
        *,
        learning_rate: float,
        decay: float,
        decay_steps: int,
    ) -> None:
        self._network = network.requires_grad_().train()
        self._latents = latents.detach().clone().requires_grad_()
        self.tensors: Sequence[Tensor] = [self._latents, *network.parameters()]
        self._of_latents = torch.optim.Adam([self._latents], lr=settings.learning_rate, betas=settings.betas)
        self._of_network = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self._adapt = settings.rule(self._of_latents)
        self._decay = StepLR(self._of_network, decay_steps, decay)

    def images(self) -> Tensor:
        """Give the images that the latents stand for, (N, C, H, W)."""
        return fast_layout(self._network(self._latents))

    def step(self, gradients: Sequence[Tensor], loss: float) -> None:
        """Change latents and network once."""
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient
        self._of_latents.step()
        self._of_network.step()
        self._adapt(loss)
        self._decay.step()
