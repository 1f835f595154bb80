"""Milliseconds and bytes of the float and the integer file, alternated in one process on one thread.

    python benchmarks/latency.py resnet18 mobilenet_v2 --bits 8 4

Random weights: neither speed nor size depends on them. One image of 224 x 224, medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from export_networks import images, set_statistics

from dfq_plugin import export, quantization
from dfq_plugin.config import ExportSettings, QuantizeSettings
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.validation.speed import measure

SIDE = 224


def main() -> None:
    """Measure each network at each bit width and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names of torchvision networks")
    parser.add_argument("--bits", nargs="+", type=int, default=[8])
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    for name in arguments.networks:
        for bits in arguments.bits:
            print(json.dumps(compare(name, bits, arguments.runs)), flush=True)


def compare(name: str, bits: int, runs: int) -> dict[str, object]:
    """One network at one bit width, first and last layer included."""
    from torchvision import models

    network = set_statistics(models.get_model(name, weights=None), images(SIDE, 8))
    synthetic = SyntheticSet(images(SIDE, 4), None, None, describe_run("noise", {}, 0, ""))
    settings = QuantizeSettings(weight_bits=bits, activation_bits=bits, first_last_bits=None, rounding="nearest")
    student = quantization.quantize(network, synthetic, settings)
    packing = "int4" if bits <= 4 else "none"
    with tempfile.TemporaryDirectory() as folder:
        plain, integer = Path(folder) / "float.onnx", Path(folder) / "integer.onnx"
        float_file = export.export_float(network, (3, SIDE, SIDE), plain, ExportSettings())
        integer_file = export.export_onnx(student, integer, ExportSettings(packing=packing))
        latency = measure(plain, integer, (3, SIDE, SIDE), runs)
    return {
        "network": name,
        "bits": bits,
        "float_ms": round(latency.float_ms, 2),
        "integer_ms": round(latency.integer_ms, 2),
        "times_faster": round(latency.float_ms / latency.integer_ms, 2),
        "float_mb": round(float_file.size_bytes / 1e6, 2),
        "integer_mb": round(integer_file.size_bytes / 1e6, 2),
    }


if __name__ == "__main__":
    main()
