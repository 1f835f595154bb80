"""The setting of the studies: a ResNet-20 for CIFAR-10, its labelled test images, and image sets by any provider.

The folder of data holds ``resnet20_cifar10_jpeg.safetensors``, ``cifar10_jpeg_test.safetensors`` and, for the line with
real images, ``cifar10_jpeg_train5120.safetensors``. None of them ships with the package.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1])]

import cifar_networks

import dfq_plugin as dfq
from dfq_plugin.synthetic_set import SyntheticSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (3, 32, 32)
BATCH = 250  # test images at once

# Steps for a CPU where a paper's default is for a GPU and hours; everything else is the provider's default.
CPU_STEPS: dict[str, dict[str, Any]] = {
    "intraq": {"preset": "cifar10", "steps": 200, "learning_rate": 0.1, "batch_size": 128},
    "zeroq": {"steps": 200, "batch_size": 128},
    "genie": {"steps": 200, "batch_size": 16},
    "gznq": {"steps": 200, "batch_size": 128},
    "deepinversion": {"preset": "cifar10", "steps": 200, "learning_rate": 0.1, "batch_size": 128},
    "gdfq": {"steps": 400, "batch_size": 32},
    "qimera": {"steps": 400, "batch_size": 32},
    "adadfq": {"steps": 400, "batch_size": 32},
}
PAPER_STEPS: dict[str, dict[str, Any]] = {"intraq": {"preset": "cifar10"}, "deepinversion": {"preset": "cifar10"}}


def params_of(provider: str, *, paper: bool = False) -> dict[str, Any]:
    """Settings of a provider: what a CPU can afford, or the paper's own."""
    return dict((PAPER_STEPS if paper else CPU_STEPS).get(provider, {}))


def load_teacher(data: Path) -> nn.Module:
    """The trained network, in eval mode; NNCF's and our messages are kept quiet."""
    logging.disable(logging.INFO)
    network = cifar_networks.resnet20()
    network.load_state_dict(load_file(data / "resnet20_cifar10_jpeg.safetensors"))
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def make_images(
    teacher: nn.Module,
    data: Path,
    provider: str,
    *,
    count: int,
    seed: int,
    params: dict[str, Any] | None = None,
    paper: bool = False,
) -> SyntheticSet:
    """Images of a provider, or real ones with ``folder``; made once and kept in the cache.

    Args:
        teacher: the network.
        data: where the real ones are.
        provider: its name.
        count: how many.
        seed: of the provider.
        params: further settings.
        paper: with the paper's steps instead of those that a CPU can afford.
    """
    chosen = {**params_of(provider, paper=paper), **(params or {})}
    if provider == "folder":
        chosen["path"] = str(data / "cifar10_jpeg_train5120.safetensors")
    return dfq.generate(
        teacher,
        provider=provider,
        input_shape=SHAPE,
        num_samples=count,
        seed=seed,
        params=chosen,
        mean=MEAN,
        std=STD,
    )


class TestImages:
    """The labelled images, and how a network does on them."""

    def __init__(self, data: Path, teacher: nn.Module) -> None:
        held = load_file(data / "cifar10_jpeg_test.safetensors")
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self._images, self._labels = (held["images"].float() / 255 - mean) / std, held["labels"]
        self._exact = self._logits(teacher)

    @torch.no_grad()
    def _logits(self, network: nn.Module) -> Tensor:
        device = next(network.parameters()).device
        return torch.cat([network(part.to(device)).cpu() for part in self._images.split(BATCH)])

    def measure(self, student: nn.Module) -> dict[str, float]:
        """Top-1 in percent, its drop from float in points, and the mean KL from the teacher in nats."""
        found = self._logits(student)
        top1, exact = (self._top1(logits) for logits in (found, self._exact))
        log_exact = self._exact.log_softmax(dim=1)
        kl = (log_exact.exp() * (log_exact - found.log_softmax(dim=1))).sum(dim=1).mean().item()
        return {"top1": round(top1, 2), "drop": round(exact - top1, 2), "kl": round(kl, 4)}

    def _top1(self, logits: Tensor) -> float:
        return (logits.argmax(dim=1) == self._labels).float().mean().item() * 100
