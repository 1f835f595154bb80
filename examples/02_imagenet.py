"""02. An ImageNet network from a config file: ``02_imagenet.json``, which says the whole job.

On the command line it is ``cd examples; dfq run 02_imagenet.json``. Run it from Python with
``python examples/02_imagenet.py``; ``--smoke`` takes smaller images. ``efficientnet_lite0.py`` beside it is the long
story: with images by IntraQ, and measured on photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dfq_plugin as dfq

CONFIG = Path(__file__).with_name("02_imagenet.json")
SMALL = ["input_shape=[3, 64, 64]", "validate.held_out=2", "validate.parity_codes=1000", "validate.latency_runs=2"]


def main() -> None:
    """Run the job and print what the report says first."""
    report = dfq.run(CONFIG, SMALL if "--smoke" in sys.argv else [])
    print(f"operators: {report.census['integer']} integer, {report.census['float']} float")
    print(f"codes compared: {report.parity['codes_compared']:,}, different: {report.parity['mismatches']}")
    print(f"size: {report.size_bytes['float']:,} bytes in float, {report.size_bytes['integer']:,} in integers")
    print(f"latency, 1 thread: {report.latency_ms['float']:.2f} ms in float, {report.latency_ms['integer']:.2f} ms")
    print("model and report: runs/02_imagenet/model.onnx, runs/02_imagenet/report.html")


if __name__ == "__main__":
    main()
