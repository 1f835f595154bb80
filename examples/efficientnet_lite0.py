"""From trained ImageNet weights and no data to a proven integer ONNX file, in minutes on two cores.

EfficientNet-Lite0 is quantized to 8 bits twice: calibrated on synthetic images (IntraQ) and on noise. Both are compared
with the float network on photographs that Python packages happen to ship; none of them had a part in calibration.
Run it with ``make demo``; ``--smoke`` makes and measures fewer images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

import dfq_plugin as dfq
from dfq_plugin.report import Report

SKLEARN_PHOTOS = ("china.jpg", "flower.jpg")
SKIMAGE_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")
SMOKE = "--smoke" in sys.argv
CROPS = 1 if SMOKE else 3  # of each photograph, down and across
OUTPUT = Path("runs/efficientnet_lite0")
PHOTOS = OUTPUT / "photos"
CONFIG = {
    "model": {
        "source": "python:networks:efficientnet_lite0",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "input_info": {"sample_size": [1, 3, 224, 224]},
    "compression": {"algorithm": "quantization", "weights": {"bits": 8}, "activations": {"bits": 8}},
    "calibration": {
        "provider": "intraq",
        "num_samples": 8 if SMOKE else 64,
        "params": {"steps": 4 if SMOKE else 50, "batch_size": 8 if SMOKE else 32, "learning_rate": 0.2},
    },
    "validate": {"images": f"folder:{PHOTOS}"},
    "output_dir": str(OUTPUT),
}
NOISE = ["calibration.provider=noise", "calibration.params={}", f"output_dir={OUTPUT}/noise"]


def main() -> None:
    """Run both jobs and print what they came to."""
    count = save_photos(PHOTOS)
    data_free, noise = dfq.run(CONFIG), dfq.run(CONFIG, NOISE)
    Console().print(make_table(data_free, noise, count))
    print(f"Model and report: {OUTPUT}/model.onnx, {OUTPUT}/report.html")


def photographs() -> Iterator[Image.Image]:
    """Colour photographs inside scikit-learn and scikit-image."""
    folders = {"sklearn.datasets": ("images", SKLEARN_PHOTOS), "skimage": ("data", SKIMAGE_PHOTOS)}
    for package, (folder, names) in folders.items():
        for name in names:
            with (files(package) / folder / name).open("rb") as file:
                yield Image.open(file).convert("RGB")


def save_photos(folder: Path) -> int:
    """Cut overlapping crops out of every photograph, as PNG files; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for image in photographs():
        width, height = image.size
        for top in (0, height // 6, height // 3)[:CROPS]:
            for left in (0, width // 6, width // 3)[:CROPS]:
                box = (left, top, left + 2 * width // 3, top + 2 * height // 3)
                image.crop(box).save(folder / f"photo_{count:03d}.png")
                count += 1
    return count


def make_table(data_free: Report, noise: Report, photos: int) -> Table:
    """Float, data-free and noise-calibrated, side by side."""
    table = Table(title=f"EfficientNet-Lite0, W8A8, agreement on {photos} crops of photographs")
    for column in ("", "float", "data-free (IntraQ)", "noise"):
        table.add_column(column, justify="left" if not column else "right")
    reports = (data_free, noise)
    table.add_row("top-1 equal to float, %", "100.0", *(f"{r.agreement['onnx']:.1f}" for r in reports))
    table.add_row("KL from float, nats", "0", *(f"{r.kl_nats['onnx']:.4f}" for r in reports))
    table.add_row("size, MB", mega(data_free.size_bytes["float"]), *(mega(r.size_bytes["integer"]) for r in reports))
    latencies = (f"{r.latency_ms['integer']:.2f}" for r in reports)
    table.add_row("latency, ms (1 thread)", f"{data_free.latency_ms['float']:.2f}", *latencies)
    operators = (f"{r.census['integer']} / {r.census['float']}" for r in reports)
    table.add_row("operators integer / float", "", *operators)
    table.add_row("integer codes compared", "", *(f"{r.parity['codes_compared']:,}" for r in reports))
    table.add_row("mismatches", "", *(str(r.parity["mismatches"]) for r in reports))
    return table


def mega(size: float | None) -> str:
    """Bytes as megabytes."""
    return "" if size is None else f"{size / 1e6:.1f}"


if __name__ == "__main__":
    main()
