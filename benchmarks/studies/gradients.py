"""How far the gradient that a student gets from images agrees with the one that photographs give it.

    python benchmarks/studies/gradients.py --data DIR

EfficientNet-Lite0 with its ImageNet weights, W4A8 by SQuant, first and last layer 8 bits. The gradient is that of the
distillation loss with regard to each weight tensor; what is given is its cosine with the gradient on 250 photographs,
averaged over the layers, and over the first, the middle and the last third of them. Every row has 32 images, the one of
photographs too, which are not among the 250: as much as 32 images can tell. Images that start from dead leaves get
20 steps of 0.02, those that start from noise 80 steps of 0.2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tables import write_page
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "examples")]

from accuracy import NORMALISATION
from networks import efficientnet_lite0

import dfq_plugin as dfq
from dfq_plugin.batches import Batch, FixedBatches
from dfq_plugin.config import FinetuneSettings
from dfq_plugin.finetuning import FinetuneHooks
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run

SHAPE, COUNT, BATCH = (3, 224, 224), 32, 16
PHOTOGRAPHS = 500
BRIEF: dict[str, Any] = {"initial_images": "dead_leaves", "steps": 20, "learning_rate": 0.02, "batch_size": COUNT}
LONG: dict[str, Any] = {"steps": 80, "learning_rate": 0.2, "batch_size": COUNT}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise": ("noise", {}),
    "fractals": ("fractal", {}),
    "dead leaves": ("dead_leaves", {}),
    "IntraQ from dead leaves": ("intraq", BRIEF),
    "ZeroQ from dead leaves": ("zeroq", BRIEF),
    "GZNQ from dead leaves": ("gznq", BRIEF),
    "DeepInversion from dead leaves": ("deepinversion", BRIEF | {"low_resolution_share": 0.0, "keep": "last"}),
    "IntraQ from noise": ("intraq", LONG),
}


def main() -> None:
    """Measure every set, print a line each, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    photographs = _make("folder", {"path": str(parser.parse_args().data / "imagenet_sample")}, PHOTOGRAPHS).images
    network = efficientnet_lite0().eval()
    drawn = _make("dead_leaves", {}, COUNT)
    student = dfq.quantize(network, drawn, weight_bits=4, activation_bits=8)
    reference = gradients(network, student, photographs[::2])
    rows = []
    for name in ("photographs", *SETS):
        images = photographs[1::2][:COUNT] if name == "photographs" else _make(*SETS[name], COUNT).images
        pairs = zip(gradients(network, student, images), reference, strict=True)
        found = torch.stack([F.cosine_similarity(own, real, dim=0) for own, real in pairs])
        rows.append([name, *(f"{float(part.mean()):.2f}" for part in (found, *found.chunk(3)))])
        print(*rows[-1], sep="\t", flush=True)
    header = ["images", "all layers", "first third", "middle third", "last third"]
    write_page("gradients", "What images teach", __doc__.split("\n\n")[2].replace("\n", " "), header, rows)


def gradients(network: nn.Module, student: Student, images: Tensor) -> list[Tensor]:
    """The gradient of the loss of distillation with regard to the weights of each layer, as one vector."""
    settings = FinetuneSettings(epochs=1, batch_size=BATCH)
    source = FixedBatches(SyntheticSet(images, None, None, describe_run("images", {}, 0, "")), BATCH, 0)
    weights = [student.network.get_parameter(layer.weight) for layer in student.layers]
    for weight in weights:
        weight.grad = None
    hooks = FinetuneHooks(network, student, source, settings)
    hooks.on_train_begin()
    for batch in images.split(BATCH):
        (hooks.loss(Batch(batch)) * len(batch)).backward()
    found = [weight.grad.flatten() for weight in weights if weight.grad is not None]
    hooks.close()
    return found


def _make(provider: str, params: dict[str, Any], count: int) -> SyntheticSet:
    network = efficientnet_lite0().eval()
    made = {"provider": provider, "num_samples": count, "params": params}
    return dfq.generate(network, input_shape=SHAPE, **made, **NORMALISATION)


if __name__ == "__main__":
    main()
