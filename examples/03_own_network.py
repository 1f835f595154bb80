"""03. A network of your own through the Python interface: one that paints, rather than one that classifies.

It marks the pixels of a disc in noise, so its output is a map, (N, 2, H, W). Providers want class scores, (N, classes):
the mean of the map over all pixels will do for those that need no labels, and everything after them takes the network
as it is. Run it with ``python examples/03_own_network.py``; ``--smoke`` does less of everything.
"""

from __future__ import annotations

import sys

import torch
from networks import Painter
from torch import Tensor, nn
from torch.nn import functional as F

import dfq_plugin as dfq

SMOKE = "--smoke" in sys.argv
SIZE = 16


def discs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Discs in noise, (N, 1, H, W), and which pixels are theirs, (N, H, W)."""
    random = torch.Generator().manual_seed(seed)
    centre = 4 + 8 * torch.rand(count, 2, 1, 1, generator=random)
    rows, columns = torch.arange(SIZE).view(1, SIZE, 1), torch.arange(SIZE).view(1, 1, SIZE)
    inside = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < 16
    return inside.float().unsqueeze(1) * 2 + torch.randn(count, 1, SIZE, SIZE, generator=random) * 0.5, inside.long()


def train(network: nn.Module) -> nn.Module:
    """Train the float network for a few seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(60 if SMOKE else 200):
        images, inside = discs(32, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), inside).backward()
        optimizer.step()
    return network.eval()


def right(network: nn.Module, images: Tensor, inside: Tensor) -> float:
    """Percent of the pixels that are painted rightly."""
    with torch.no_grad():
        return 100 * (network(images).argmax(dim=1) == inside).double().mean().item()


def main() -> None:
    """Quantize it to 4 bits, prove the file, and measure both on new discs."""
    teacher = train(Painter())
    scores = nn.Sequential(teacher, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    synthetic = dfq.generate(
        scores,
        provider="zeroq",
        input_shape=(1, SIZE, SIZE),
        num_samples=64,
        params={"steps": 50 if SMOKE else 300, "learning_rate": 0.1},
    )
    student = dfq.quantize(teacher, synthetic, weight_bits=4, activation_bits=4)
    dfq.export_onnx(student, "painter.onnx")
    verdict = dfq.validate("painter.onnx", student, synthetic.images, parity_codes=100_000)
    images, inside = discs(200, seed=10_000)
    print(f"pixels right: float {right(teacher, images, inside):.2f} %, 4 bits {right(student, images, inside):.2f} %")
    print(f"operators: {verdict.census.integer} integer, {verdict.census.float} float")
    print(f"codes compared: {verdict.parity.codes_compared:,}, different: {verdict.parity.mismatches}")


if __name__ == "__main__":
    main()
