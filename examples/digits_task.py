"""What the examples on scikit-learn's digits share: the images, a trained float network, and what it gets right."""

from __future__ import annotations

import torch
from networks import DigitNet
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 0
SHAPE = (1, 8, 8)
MEAN, STD = (0.3,), (0.376,)  # of the pixels in 0..1


def load_data() -> list[Tensor]:
    """Images, (N, 1, 8, 8) normalised, and labels, (N,), for training and for testing."""
    digits = load_digits()
    images = (torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0 - MEAN[0]) / STD[0]
    labels = torch.tensor(digits.target)
    parts = train_test_split(images, labels, test_size=450, random_state=SEED, stratify=labels)
    return list(parts)


def train(images: Tensor, labels: Tensor, epochs: int = 30) -> nn.Module:
    """Train the network for a few seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = DigitNet().train()
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = F.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of images given their label."""
    with torch.no_grad():
        return 100.0 * (network(images).argmax(dim=1) == labels).double().mean().item()
