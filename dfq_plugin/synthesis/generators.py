"""Networks that turn noise and classes into images of any size, shared by the generator methods.

The two networks of GDFQ, Qimera and AdaDFQ (arXiv:2003.03603, 2111.02625, 2303.06869), as their released codes agree on
them, with sizes derived from the image: a linear layer makes a small map of 128 channels, which is doubled, normalised
and convolved until it has the size of the image. Two doublings do up to 224 pixels (8 x 2 x 2 = 32, 56 x 2 x 2 = 224),
larger images take more, so that the linear layer does not outgrow everything else. What doubling overshoots is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOUBLINGS = 2
LARGEST_START = 56  # pixels of the map that the linear layer makes
WIDE, NARROW = 128, 64  # channels
INNER_EPS = 0.8  # a position in the released codes makes what was meant as a momentum an eps; the results are with it
SLOPE = 0.2  # of the leaky ReLU

Network = TypeVar("Network", bound=nn.Module)


class ImageGenerator(nn.Module):
    """Latents to images that have mean 0 and variance 1 in every channel over the batch.

    Args:
        input_shape: (C, H, W) of one image.
        latent_size: Width of a latent.
        num_classes: When given, the inner normalisations are conditioned on the class (the papers' network for
            ImageNet), otherwise they are plain (their network for CIFAR).
    """

    def __init__(self, input_shape: tuple[int, int, int], latent_size: int, num_classes: int | None = None) -> None:
        super().__init__()
        channels, *self.size = input_shape
        doublings, self.start = plan_upsampling(*self.size)
        self.linear = nn.Linear(latent_size, WIDE * math.prod(self.start))
        self.first_norm = ClassNorm(WIDE, num_classes)
        widths = [WIDE] * doublings + [NARROW]
        self.convolutions = nn.ModuleList(DoublingConvolution(before, after, 3) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(ClassNorm(after, num_classes, INNER_EPS) for after in widths[1:])
        self.last = nn.Conv2d(NARROW, channels, 3, padding=1)
        self.last_norm = ClassNorm(channels, num_classes=None, affine=False)

    def forward(self, latents: Tensor, mixtures: Tensor) -> Tensor:
        """Make images.

        Args:
            latents: (N, latent_size).
            mixtures: (N, num_classes), the share of each class in each image; not looked at by plain normalisations.

        Returns:
            (N, C, H, W).
        """
        values = self.first_norm(self.linear(latents).view(-1, WIDE, *self.start), mixtures)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = F.leaky_relu(norm(convolution(values), mixtures), SLOPE)
        height, width = self.size
        images: Tensor = self.last_norm(self.last(values)[:, :, :height, :width].tanh(), mixtures)
        return images


class DoublingConvolution(nn.Conv2d):
    """A 3x3 convolution of a map that is doubled first, (N, C, H, W) to (N, D, 2 H, 2 W)."""

    def forward(self, values: Tensor) -> Tensor:
        return double_and_convolve(values, self.weight, self.bias)


class ClassNorm(nn.Module):
    """Batch normalisation by the statistics of the batch at hand, with a scale and a shift.

    Args:
        channels: Channels of the input.
        num_classes: Number of classes that have a scale and a shift of their own; None gives all the same.
        eps: Added to the variance.
        affine: False leaves scale and shift out.
    """

    def __init__(self, channels: int, num_classes: int | None, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__()
        self.eps, self.by_class = eps, num_classes is not None
        rows = num_classes or 1
        self.scale = nn.Parameter(torch.ones(rows, channels)) if affine else None
        self.shift = nn.Parameter(torch.zeros(rows, channels)) if affine else None

    def forward(self, values: Tensor, mixtures: Tensor) -> Tensor:
        """Normalise ``values``, (N, C, H, W), for images that hold the classes in the shares ``mixtures``."""
        normal = F.batch_norm(values, None, None, training=True, eps=self.eps)
        if self.scale is None or self.shift is None:
            return normal
        scale, shift = (mixtures @ p if self.by_class else p for p in (self.scale, self.shift))
        return normal * scale[:, :, None, None] + shift[:, :, None, None]


class LabelGenerator(nn.Module):
    """Noise and labels to images: the generator of GDFQ and AdaDFQ.

    Small images: the label chooses an embedding that the noise is multiplied with. Large images: the noise goes in as
    it is and the label chooses scales and shifts inside.

    Args:
        input_shape: (C, H, W) of one image.
        latent_size: Width of noise and embedding.
        num_classes: Number of labels.
        large: Whether images count as large.
    """

    def __init__(self, input_shape: tuple[int, int, int], latent_size: int, num_classes: int, *, large: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding = None if large else nn.Embedding(num_classes, latent_size)
        self.network = ImageGenerator(input_shape, latent_size, num_classes if large else None)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images, (N, C, H, W), from noise, (N, latent_size), and labels, (N,) int64."""
        latents = noise if self.embedding is None else self.embedding(labels) * noise
        images: Tensor = self.network(latents, F.one_hot(labels, self.num_classes).to(noise))
        return images


def double_and_convolve(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Double a map by repeating every value, then convolve it with a 3x3 kernel and one pixel of zeros around it.

    Both at once: each value of the small map reaches 4x4 places of the large one, so that this is a transposed
    convolution with the kernel summed over the four repetitions, at less than half of the multiplications (16 for 36).

    Args:
        values: (N, C, H, W).
        weight: (D, C, 3, 3).
        bias: (D,), or None.

    Returns:
        (N, D, 2 H, 2 W).
    """
    turned = weight.flip(-1, -2).transpose(0, 1)
    kernels = [F.pad(turned, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1)]
    return F.conv_transpose2d(values, torch.stack(kernels).sum(dim=0), bias, stride=2, padding=1)


def plan_upsampling(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """How often a map has to be doubled to cover an image, and from which (height, width)."""
    doublings = max(DOUBLINGS, math.ceil(math.log2(max(height, width) / LARGEST_START)))
    return doublings, (math.ceil(height / 2**doublings), math.ceil(width / 2**doublings))


def initialised(make: Callable[[], Network], random: torch.Generator) -> Network:
    """Make a network whose first weights are drawn from ``random``, which is left as it is, and not from torch's own.

    Args:
        make: Makes the network.
        random: On the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random.get_state())
        return make()
