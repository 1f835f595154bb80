"""Real accuracy without any download: scikit-learn's digits, quantized on four kinds of calibration images.

A small BatchNorm network is trained on 1,347 digits and measured on the other 450. Then it is quantized to 8 and to 4
bits (first and last layer 8) on noise, ZeroQ, IntraQ and real images, with and without fine-tuning on these same
images. Run it with ``make digits``; ``--smoke`` does less of everything.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from digits_task import MEAN, SEED, STD, accuracy, load_data, train
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

import dfq_plugin as dfq

SMOKE = "--smoke" in sys.argv
EPOCHS = 4 if SMOKE else 30
IMAGES = 64 if SMOKE else 256
STEPS = 20 if SMOKE else 200
FINETUNE_EPOCHS = 1 if SMOKE else 20
REAL = Path("runs/digits/real.safetensors")


def main() -> None:
    """Train, quantize in every way, print the table."""
    start = time.perf_counter()
    train_images, test_images, train_labels, test_labels = load_data()
    teacher = train(train_images, train_labels, EPOCHS)
    plain = accuracy(teacher, test_images, test_labels)
    table = Table(title=f"Digits: accuracy in %, float {plain:.2f} on {len(test_images)} held-out images")
    for column in ("calibration", "W8A8", "W4A4", "W4A4 fine-tuned"):
        table.add_column(column, justify="left" if column == "calibration" else "right")
    for provider, params in providers(train_images, train_labels).items():
        cells = quantize_in_every_way(teacher, provider, params, test_images, test_labels)
        table.add_row(provider, *(f"{value:.2f}" for value in cells))
    Console().print(table)
    print(f"{time.perf_counter() - start:.0f} seconds, seed {SEED}.")


def providers(images: Tensor, labels: Tensor) -> dict[str, dict[str, object]]:
    """Each kind of calibration images with its settings; the real ones are the baseline."""
    pixels = ((images * STD[0] + MEAN[0]) * 255).round().to(torch.uint8)
    REAL.parent.mkdir(parents=True, exist_ok=True)
    save_file({"images": pixels, "labels": labels}, REAL)
    steps = {"steps": STEPS, "learning_rate": 0.1, "batch_size": 128}
    return {"noise": {}, "zeroq": steps, "intraq": steps, "folder": {"path": str(REAL)}}


def quantize_in_every_way(
    teacher: nn.Module, provider: str, params: dict[str, object], images: Tensor, labels: Tensor
) -> tuple[float, float, float]:
    """Accuracy at 8 bits, at 4 bits, and at 4 bits after fine-tuning, in percent."""
    synthetic = dfq.generate(
        teacher, provider=provider, input_shape=(1, 8, 8), num_samples=IMAGES, params=params, mean=MEAN, std=STD
    )
    eight = dfq.quantize(teacher, synthetic, weight_bits=8, activation_bits=8)
    four = dfq.quantize(teacher, synthetic, weight_bits=4, activation_bits=4)
    before = accuracy(eight, images, labels), accuracy(four, images, labels)
    dfq.finetune(teacher, four, synthetic, epochs=FINETUNE_EPOCHS, augment="none")
    return (*before, accuracy(four, images, labels))


if __name__ == "__main__":
    main()
