"""Accuracy of the whole job on labelled images: the drop from float, for each provider and seed, last step.

    python benchmarks/accuracy.py resnet20 --data DIR --bits 4 --epochs 20 --providers intraq noise folder --seeds 0 1 2
    python benchmarks/accuracy.py resnet20 --data DIR --recipe best --bits 3 --all-layers --providers recipe folder
    python benchmarks/accuracy.py efficientnet_lite0 --data DIR --providers intraq noise folder

A recipe brings a provider of its own, named ``recipe`` here; with another provider it chooses the rest.
DIR holds, for ``resnet20``, ``resnet20_cifar10_jpeg.safetensors``, ``cifar10_jpeg_test.safetensors`` and
``cifar10_jpeg_train5120.safetensors``; for ``efficientnet_lite0`` a folder ``imagenet_sample`` of images named
``CLASS_*.jpg``. The ``folder`` provider is the real-data baseline: training images for CIFAR, for ImageNet images of
the sample itself, as many as ``--real-images``, which are left out of its measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]  # the modules that the configs name

import dfq_plugin as dfq
from dfq_plugin.images import open_images
from dfq_plugin.teacher import ModelFacts

NORMALISATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
FEW = 64  # images that a provider makes where no recipe says how many


def main() -> None:
    """Run every combination and print a line each, then the table as JSON."""
    arguments = parse()
    rows = []
    for provider in arguments.providers:
        for seed in arguments.seeds:
            row = measure(arguments, provider, seed)
            rows.append(row)
            print(json.dumps(row), flush=True)
    (arguments.output / "accuracy.json").write_text(json.dumps(rows, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["resnet20", "efficientnet_lite0"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=8, help="of weights and activations")
    parser.add_argument("--activation-bits", type=int, help="where they differ from those of the weights")
    parser.add_argument("--all-layers", action="store_true", help="first and last layer too, not at 8 bits")
    parser.add_argument("--recipe", choices=["fast", "balanced", "best"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--providers", nargs="+", default=["intraq"])
    parser.add_argument("--real-images", type=int, default=FEW, help="of ImageNet's sample, for the provider 'folder'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def measure(arguments: argparse.Namespace, provider: str, seed: int) -> dict[str, Any]:
    """One job."""
    start = time.perf_counter()
    activation_bits = arguments.activation_bits or arguments.bits
    bits = f"w{arguments.bits}a{activation_bits}" + ("_all" if arguments.all_layers else "")
    name = "_".join([arguments.network, *([arguments.recipe] if arguments.recipe else []), provider, bits, str(seed)])
    describe = resnet20_job if arguments.network == "resnet20" else efficientnet_job
    job = describe(arguments, provider)
    if arguments.recipe:
        job["recipe"] = arguments.recipe
        if provider != "folder":  # of real images there are only so many
            del job["calibration"]["num_samples"]  # the recipe's
    job["calibration"]["seed"] = seed
    if provider == "recipe":
        del job["calibration"]["params"]
    else:
        job["calibration"]["provider"] = provider
    job["compression"] = {
        "algorithm": "quantization",
        "weights": {"bits": arguments.bits},
        "activations": {"bits": activation_bits},
    }
    job["quantize"] = {"reconstruction": {"seed": seed}}
    if arguments.all_layers:
        job["quantize"]["first_last_bits"] = None
    job["finetune"] = {"seed": seed} | ({} if arguments.epochs is None else {"epochs": arguments.epochs})
    job["output_dir"] = str(arguments.output / name)
    report = dfq.run(job, arguments.overrides)
    accuracy = report.accuracy
    return {
        "job": name,
        "float": accuracy["teacher"],
        "student": accuracy["student"],
        "onnx": accuracy["onnx"],
        "drop": round(float(accuracy["teacher"] or 0) - float(accuracy["onnx"] or 0), 2),
        "agreement": report.agreement["onnx"],
        "mismatches": report.parity["mismatches"],
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "seconds_by_stage": {stage: round(seconds, 1) for stage, seconds in report.timings_s.items()},
    }


def resnet20_job(arguments: argparse.Namespace, provider: str) -> dict[str, Any]:
    """CIFAR-10."""
    data = arguments.data
    params: dict[str, dict[str, Any]] = {
        "intraq": {"preset": "cifar10", "steps": 200, "learning_rate": 0.1, "batch_size": 128},
        "zeroq": {"steps": 200, "batch_size": 128},
        "folder": {"path": str(data / "cifar10_jpeg_train5120.safetensors")},
    }
    return {
        "model": {
            "source": "python:cifar_networks:resnet20",
            "weights": str(data / "resnet20_cifar10_jpeg.safetensors"),
        }
        | NORMALISATION,
        "input_shape": [3, 32, 32],
        "calibration": {"num_samples": 256, "params": params.get(provider, {})},
        "validate": {"images": f"safetensors:{data / 'cifar10_jpeg_test.safetensors'}"},
    }


def efficientnet_job(arguments: argparse.Namespace, provider: str) -> dict[str, Any]:
    """ImageNet, a sample whose file names begin with the class."""
    real, rest = split_sample(arguments.data / "imagenet_sample", arguments.output, arguments.real_images)
    steps = {"steps": 100, "learning_rate": 0.1, "batch_size": 32}
    params: dict[str, dict[str, Any]] = {"intraq": steps, "zeroq": steps, "folder": {"path": str(real)}}
    return {
        "model": {"source": "python:networks:efficientnet_lite0"} | NORMALISATION,
        "input_shape": [3, 224, 224],
        "calibration": {
            "num_samples": arguments.real_images if provider == "folder" else FEW,
            "params": params.get(provider, {}),
        },
        "validate": {"images": f"safetensors:{rest}"},
    }


def split_sample(folder: Path, output: Path, count: int) -> tuple[Path, Path]:
    """Decode the sample once; ``count`` of its images, spread over it, calibrate the baseline."""
    real, everything = output / f"imagenet_real_{count}.safetensors", output / "imagenet_all.safetensors"
    if not everything.exists():
        mean, std = tuple(NORMALISATION["mean"]), tuple(NORMALISATION["std"])
        facts = ModelFacts((3, 224, 224), 1000, mean, std, (), None, "")
        source = open_images(folder, facts, label_pattern=r"^(\d+)_")
        loaded = source.read(range(len(source)))
        pixels = loaded.images * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)
        pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        if loaded.labels is None:
            message = f"{folder}: the file names carry no labels."
            raise SystemExit(message)
        save_file({"images": pixels, "labels": loaded.labels}, everything)
    if not real.exists():
        pixels = load_file(everything)["images"]
        save_file({"images": pixels[:: len(pixels) // count][:count].contiguous()}, real)
    return real, everything


if __name__ == "__main__":
    main()
