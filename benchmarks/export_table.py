"""What becomes of whole families of networks: exported, loaded, run on integer kernels, equal to the reference.

    python benchmarks/export_table.py batchnorm plain timm segmentation --bits 8 4 --jobs 2
    python benchmarks/export_table.py batchnorm --only resnet18 --again

Every network has random weights and BatchNorm statistics of random images, every layer is quantized, and every integer
code of one image is compared. Each runs in a process of its own; results are kept in ``results/export_table.jsonl``, so
that the command goes on where it stopped, and the table is written to ``docs/operators.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "export_table.jsonl"
PAGE = HERE.parent / "docs" / "operators.md"
TITLES = {
    "batchnorm": "torchvision classifiers with BatchNorm",
    "plain": "torchvision classifiers without BatchNorm, and MaxViT",
    "timm": "timm networks of at most 10 M parameters",
    "segmentation": "torchvision segmentation",
}
TIME_LIMIT = 1800  # seconds for one network


def main() -> None:
    """Measure what is not measured yet, then write the page."""
    arguments = parse()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.bits[0])))
        return
    sys.path.insert(0, str(HERE))
    from export_networks import names_of

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    done = {} if arguments.again else {(row["name"], row["bits"]) for row in read_rows()}
    jobs = [
        (name, bits)
        for family in arguments.families
        for name in names_of(family)
        for bits in arguments.bits
        if (name, bits) not in done and (not arguments.only or name in arguments.only)
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(lambda job: run_apart(*job), jobs):
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    write_page()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(TITLES)}; none only writes the page again")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def read_rows() -> list[dict[str, Any]]:
    """What was measured so far, the latest of each."""
    if not RESULTS.exists():
        return []
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return list({(row["name"], row["bits"]): row for row in rows}.values())


def run_apart(name: str, bits: int) -> dict[str, Any]:
    """Measure one network in a process of its own, so that memory is given back."""
    command = [sys.executable, __file__, "--one", name, "--bits", str(bits)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(  # noqa: S603 - this very script
            command, capture_output=True, text=True, env=environment, check=False, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "bits": bits, "error": f"not done after {TIME_LIMIT} s"}
    try:
        row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"name": name, "bits": bits, "error": f"exit code {result.returncode}: {result.stderr[-300:]}"}
    return row


def measure(name: str, bits: int) -> dict[str, Any]:
    """Quantize, export, count and compare one network."""
    sys.path.insert(0, str(HERE))
    from export_networks import build, images, size_of

    from dfq_plugin import export, quantization
    from dfq_plugin.config import QuantizeSettings
    from dfq_plugin.errors import DFQError
    from dfq_plugin.synthetic_set import SyntheticSet, describe_run
    from dfq_plugin.validation.census import take_census
    from dfq_plugin.validation.parity import compare

    start, size = time.perf_counter(), size_of(name)
    row: dict[str, Any] = {"name": name, "bits": bits, "size": size}
    pixels = images(size, 4)
    synthetic = SyntheticSet(pixels, None, None, describe_run("noise", {}, 0, ""))
    # Plain rounding and ranges: neither changes the graph, and the largest networks have 600 M weights.
    settings = QuantizeSettings(
        weight_bits=bits, activation_bits=bits, first_last_bits=None, rounding="nearest", weight_range="min_max"
    )
    try:
        network = build(name)
        row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        student = quantization.quantize(network, synthetic, settings)
        row["layers"] = len(student.layers)
        with tempfile.TemporaryDirectory() as folder:
            exported = export.export_onnx(student, Path(folder) / "model.onnx")
            row["size_bytes"] = exported.size_bytes
            census = take_census(exported.path)
            parity = compare(exported.path, pixels[:1].numpy(), 10**12, 1)
    except DFQError as error:
        return {**row, "error": str(error), "seconds": round(time.perf_counter() - start, 1)}
    row |= {
        "asked": census.products_asked,
        "integer_products": census.products_integer,
        "integer": census.integer,
        "float": dict(Counter(node.op_type for node in census.float_nodes)),
        "codes": parity.codes_compared,
        "mismatches": parity.mismatches,
        "tensors": parity.tensors,
        "tensors_taken": parity.tensors_taken,
        "seconds": round(time.perf_counter() - start, 1),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
    }
    return row


def write_page() -> None:
    """Write the table, a section a family."""
    sys.path.insert(0, str(HERE))
    from export_networks import names_of

    rows = {(row["name"], row["bits"]): row for row in read_rows()}
    parts = [INTRODUCTION]
    for family, title in TITLES.items():
        names = [name for name in names_of(family) if any(key[0] == name for key in rows)]
        found = [rows[name, bits] for name in names for bits in (8, 4) if (name, bits) in rows]
        if found:
            parts += [f"## {title}\n", summary(found), "", *table(found), ""]
    PAGE.write_text("\n".join(parts))


def summary(rows: list[dict[str, Any]]) -> str:
    """A family in one sentence."""
    good = [row for row in rows if "error" not in row]
    asked, integer = (sum(row[key] for row in good) for key in ("asked", "integer_products"))
    codes, wrong = (sum(row[key] for row in good) for key in ("codes", "mismatches"))
    return (
        f"{len(good)} of {len(rows)} exported and loaded; {integer} of {asked} quantized convolutions and matrix "
        f"products on integer kernels; {codes:,} codes compared, {wrong} mismatches."
    )


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, one row a network and bit width."""
    lines = [
        "| network | image | bits | products: integer / asked / all | operators in float | codes compared | differ |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row['name']} | {row.get('size', '')} | {row['bits']} "
        if "error" in row:
            lines.append(f"{start}| refused: {row['error'].replace('|', ' ')} | | | |")
            continue
        islands = ", ".join(f"{count} {kind}" for kind, count in sorted(row["float"].items())) or "none"
        products = f"{row['integer_products']} / {row['asked']} / {row['layers']}"
        lines.append(f"{start}| {products} | {islands} | {row['codes']:,} | {row['mismatches']} |")
    return lines


INTRODUCTION = """# What runs in integers

Made by `python benchmarks/export_table.py batchnorm plain timm segmentation --bits 8 4`: every network with random
weights and BatchNorm statistics of random images, every layer quantized to the bits of the row (weights and
activations; the image has 8), exported, loaded by onnxruntime at full optimisation, and every integer code of one image
compared with the independent integer reference. *Asked* are the convolutions and matrix products whose two operands are
quantized in the file, products of two activations included; *all* are the layers with weights. Operators in float are
those for which onnxruntime has no integer kernel; they stand between DequantizeLinear and QuantizeLinear, and what
follows them is compared again from there.
"""


if __name__ == "__main__":
    main()
