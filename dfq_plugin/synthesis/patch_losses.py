"""How much the patches of an image differ to a network with attention, and how smooth the image is: pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_PATCHES = 256  # of one attention; pairs grow with the square, and evenly chosen patches have the same density
STEPS_A_BANDWIDTH = 8  # of the grid; binning then widens the kernel by less than one in a thousand
TAIL = 5  # bandwidths beyond -1 and 1, where the density has fallen to nothing
TINY = 1e-12  # keeps the logarithm finite where the density is zero
ROOT_EPS = 1e-8  # inside the square root, so that flat regions have a gradient


def patch_similarities(outputs: Tensor) -> Tensor:
    """Cosine similarity of every pair of patches.

    Args:
        outputs: (N, patches, channels), of one attention; of more than 256 patches as many are taken, evenly.

    Returns:
        (N, pairs) in -1..1, each pair once and no patch with itself.
    """
    count = outputs.shape[1]
    if count > MOST_PATCHES:
        outputs = outputs[:, torch.linspace(0, count - 1, MOST_PATCHES).long().to(outputs.device)]
        count = MOST_PATCHES
    directions = F.normalize(outputs, dim=2)
    rows, columns = torch.triu_indices(count, count, offset=1, device=outputs.device)
    return (directions @ directions.transpose(1, 2))[:, rows, columns]


def similarity_entropy(similarities: Tensor, bandwidth: float) -> Tensor:
    """Differential entropy of the density of similarities, estimated with a Gaussian kernel.

    The values are first divided among the two nearest points of a fine grid, then the grid is smoothed: what the sum of
    one kernel a value would give, at the price of two additions a value (linear binning).

    Args:
        similarities: (N, pairs) in -1..1.
        bandwidth: Standard deviation of the kernel.

    Returns:
        (N,) in nats: ``log(bandwidth * sqrt(2 pi e))`` where all values are equal, up to about ``log 2`` where they are
        spread evenly from -1 to 1.
    """
    step, low = bandwidth / STEPS_A_BANDWIDTH, -1.0 - TAIL * bandwidth
    points = math.ceil((2.0 + 2 * TAIL * bandwidth) / step) + 1
    places = (similarities - low) / step
    left = places.detach().floor().clamp(0, points - 2)
    share = places - left
    bins = torch.zeros(len(similarities), points, dtype=similarities.dtype, device=similarities.device)
    bins = bins.scatter_add(1, left.long(), 1.0 - share).scatter_add(1, left.long() + 1, share)
    density = bins @ _kernel(points, bandwidth).to(similarities) / similarities.shape[1]
    return -(density * density.clamp_min(TINY).log()).sum(dim=1) * step


def _kernel(points: int, bandwidth: float) -> Tensor:
    """The Gaussian of one point of the grid at every other, (points, points)."""
    places = torch.arange(points)
    heights = torch.exp(-(places / STEPS_A_BANDWIDTH).square() / 2) / (bandwidth * math.sqrt(2 * math.pi))
    return heights[(places[:, None] - places).abs()]


def patch_similarity_loss(outputs: list[Tensor], bandwidth: float) -> Tensor:
    """Minus the entropy of the patches' similarities, averaged over images (and windows), summed over attentions.

    Args:
        outputs: For each attention (N, patches, channels).
        bandwidth: Standard deviation of the kernel.

    Returns:
        Scalar; the lower, the more the patches differ in how much they resemble each other.
    """
    entropies = [similarity_entropy(patch_similarities(each), bandwidth).mean() for each in outputs]
    return -torch.stack(entropies).sum()


def total_variation_integral(images: Tensor) -> Tensor:
    """Length of the gradient, integrated over the image, whose sides have length 1; averaged over images and channels.

    Args:
        images: (N, C, H, W), with at least two rows and two columns.

    Returns:
        Scalar; the same for a picture of any number of pixels.
    """
    rows, columns = images.shape[2:]
    down = (images[:, :, 1:, :-1] - images[:, :, :-1, :-1]) * rows
    across = (images[:, :, :-1, 1:] - images[:, :, :-1, :-1]) * columns
    return (down.square() + across.square() + ROOT_EPS).sqrt().mean()
