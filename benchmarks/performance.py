"""Cost of synthesis and of fine-tuning as ratios to what no loop can do without; written to ``docs/performance.md``.

    python benchmarks/performance.py                 # half an hour on two cores
    python benchmarks/performance.py --only synthesis --rounds 5      # the other rows of the page stay
    python benchmarks/performance.py --smoke         # tiny sizes: whether it runs at all; nothing is written

Random weights with the BatchNorm statistics of random images: speed depends on neither. What is compared alternates
within one process, and the medians over the rounds are divided. The floor of a synthesis step is one forward pass and
one gradient with regard to the images, weights frozen, in the layout of our loop. The plain loop is the one that the
IntraQ paper describes, written without thought of speed: gradients of the weights are computed too, images are cropped
one by one, statistics are taken in a pass of their own. All of them keep freed memory, as the stages of a job do.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cifar_networks
from export_networks import images, set_statistics
from performance_page import Row, keep, write
from plain_loop import plain

import dfq_plugin as dfq
from dfq_plugin.batches import FixedBatches
from dfq_plugin.config import FinetuneSettings
from dfq_plugin.config.finetune_settings import Augmentation
from dfq_plugin.finetuning import FinetuneHooks
from dfq_plugin.finetuning.loop import make_optimizer
from dfq_plugin.memory import freed_memory_kept
from dfq_plugin.synthetic_set import SyntheticSet, describe_run

SIZES = [("resnet18", 224, 8), ("resnet18", 224, 32), ("resnet20", 32, 256), ("mobilenet_v2", 224, 8)]
SMOKE_SIZES = [("resnet20", 8, 4)]
COUNTS, SIDES = (64, 128, 256, 512, 1024), (64, 96, 128, 160, 224)
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101")


def main() -> None:
    """Measure, print a line each, write the page."""
    arguments = parse()
    sizes = SMOKE_SIZES if arguments.smoke else SIZES
    rows: list[Row] = []
    if "synthesis" in arguments.only:
        rows += [synthesis(*size, rounds=arguments.rounds, steps=arguments.steps) for size in sizes]
    if "finetuning" in arguments.only:
        side, batch = (8, 4) if arguments.smoke else (32, 64)
        rows.append(finetuning(side, batch, arguments.rounds, arguments.steps))
    if "scaling" in arguments.only:
        rows += list(scaling(max(4, arguments.steps // 2), smoke=arguments.smoke))
    if "processes" in arguments.only:
        rows.append(processes(smoke=arguments.smoke))
    if "memory" in arguments.only:
        rows.append(memory(smoke=arguments.smoke))
    if "job" in arguments.only:
        rows.append(job(smoke=arguments.smoke))
    for row in rows:
        print(row, flush=True)
    if not arguments.smoke:
        write(keep(rows, arguments.rounds, arguments.steps), __doc__.split("\n\n")[2].replace("\n", " "))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["synthesis", "finetuning", "scaling", "processes", "memory", "job"]
    parser.add_argument("--only", nargs="+", default=parts, choices=parts)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="in each round")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no page")
    return parser.parse_args()


def build(name: str, side: int) -> nn.Module:
    """A network by name with statistics that random images give."""
    if name == "resnet20":
        return set_statistics(cifar_networks.resnet20(), images(side, 8))
    from torchvision import models

    return set_statistics(models.get_model(name, weights=None), images(side, 8))


def synthesis(name: str, side: int, batch: int, *, rounds: int, steps: int) -> Row:
    """Milliseconds of a step of our loop, of the floor and of the plain loop."""
    network = build(name, side)
    ways = {
        "ours": lambda: generate(network, side, batch, steps),
        "bfloat16": lambda: generate(network, side, batch, steps, precision="bfloat16"),
        "floor": floor(network, side, batch, steps),
        "plain": plain(network, side, batch, steps),
    }
    medians = {way: value / steps for way, value in alternate(ways, rounds).items()}
    return {
        "what": f"IntraQ, {name} at {side}, batch {batch}",
        "ms": {way: round(1000 * seconds, 1) for way, seconds in medians.items()},
        "ours / floor": round(medians["ours"] / medians["floor"], 2),
        "plain / ours": round(medians["plain"] / medians["ours"], 2),
        "plain / bfloat16": round(medians["plain"] / medians["bfloat16"], 2),
    }


@freed_memory_kept()
def alternate(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each way, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def generate(network: nn.Module, side: int, count: int, steps: int, **more: str) -> SyntheticSet:
    """One batch of IntraQ."""
    params = {"steps": steps, "batch_size": count, **more}
    return dfq.generate(
        network, provider="intraq", input_shape=(3, side, side), num_samples=count, params=params, cache=False
    )


def floor(network: nn.Module, side: int, batch: int, steps: int) -> Callable[[], None]:
    """Forward passes and gradients with regard to the images."""
    frozen = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    pixels = images(side, batch).contiguous(memory_format=torch.channels_last).requires_grad_()

    def run() -> None:
        for _ in range(steps):
            torch.autograd.grad(frozen(pixels).square().mean(), pixels)

    return run


def finetuning(side: int, batch: int, rounds: int, steps: int) -> Row:
    """A step of the 4-bit student against a training step of the float network.

    With shifted images, about which the teacher is asked at every step, and without, when it is asked at the first.
    """
    network = build("resnet20", side)
    synthetic = SyntheticSet(images(side, batch), None, None, describe_run("noise", {}, 0, ""))
    student = dfq.quantize(network, synthetic, weight_bits=4, activation_bits=4)
    settings = FinetuneSettings(epochs=1, batch_size=batch)
    trained = copy.deepcopy(network).train().requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-4)
    labels = torch.randint(10, (batch,))
    pixels = images(side, batch).contiguous(memory_format=torch.channels_last)

    def distil(*, augment: Augmentation) -> None:
        source = FixedBatches(synthetic, batch, 0, batches_per_epoch=steps, augment=augment)
        with FinetuneHooks(network, student, source, settings) as hooks:
            own = make_optimizer(hooks.parameter_groups(), settings)
            for drawn in hooks.epoch(0):
                own.zero_grad()
                hooks.loss(drawn).backward()
                own.step()
                hooks.after_step()

    def train() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(trained(pixels), labels).backward()
            optimizer.step()

    ways = {"student": partial(distil, augment="shift"), "kept": partial(distil, augment="none"), "float": train}
    medians = {way: value / steps for way, value in alternate(ways, rounds).items()}
    return {
        "what": f"fine-tuning, resnet20 at {side}, batch {batch}",
        "ms": {way: round(1000 * seconds, 1) for way, seconds in medians.items()},
        "fine-tuning / training": round(medians["student"] / medians["float"], 2),
        "with kept answers": round(medians["kept"] / medians["float"], 2),
    }


def scaling(steps: int, *, smoke: bool) -> Iterator[Row]:
    """How the time of a step of synthesis grows: the exponent of a power law through the points."""
    counts, sides, depths = (4, 8), (8, 16), ()
    if not smoke:
        counts, sides, depths = COUNTS, SIDES, DEPTHS
    small = build("resnet20", sides[0])
    yield grown("images, resnet20", counts, [seconds(small, sides[0], count, steps) for count in counts])
    wide = build("resnet20" if smoke else "resnet18", sides[0])
    areas = [side**2 for side in sides]
    yield grown("pixels, 8 images", areas, [seconds(wide, side, 8, steps) for side in sides])
    if depths:
        networks = [build(name, 64) for name in depths]
        operations = [multiplications(network, 64) for network in networks]
        yield grown("operations, ResNet-18 to 101", operations, [seconds(each, 64, 8, steps) for each in networks])


def seconds(network: nn.Module, side: int, count: int, steps: int) -> float:
    """The median time of one step of all images, in batches of at most 64; what a generation costs besides is left out.

    The difference between a generation of few steps and one of more.
    """

    def make(steps: int) -> Callable[[], object]:
        params = {"steps": steps, "batch_size": min(count, 64)}
        asked: dict[str, Any] = {"input_shape": (3, side, side), "num_samples": count, "params": params}
        return lambda: dfq.generate(network, provider="intraq", cache=False, **asked)

    took = alternate({"few": make(steps), "more": make(3 * steps)}, 3)
    return (took["more"] - took["few"]) / (2 * steps)


def processes(*, smoke: bool) -> Row:
    """The time of one process over that of two, a thread each, for the same images; their start does not count."""
    asked = ["resnet20", "8", "4", "2"] if smoke else ["resnet18", "64", "32", "20"]
    script = [str(HERE / "shared_synthesis.py"), *asked]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    took = {}
    for count in (1, 2):
        around = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*launcher, str(count), *script], env=around, capture_output=True, text=True, check=True)  # noqa: S603
        took[f"{count} process{'es' if count > 1 else ''}"] = round(float(done.stdout.split()[-1]), 2)
    one, two = took.values()
    what = f"IntraQ, 8 batches of {asked[2]} images, {asked[0]} at {asked[1]}, in several processes"
    return {"what": what, "seconds": took, "one process / two": round(one / two, 2)}


def memory(*, smoke: bool) -> Row:
    """The peak of memory for sets of several sizes, each made in a process of its own."""
    counts = (4, 8) if smoke else (64, 1024, 5120)
    peaks = {}
    for count in counts:
        command = [sys.executable, str(HERE / "peak_memory.py"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        peaks[count] = int(done.stdout.split()[-1])
    growth = round(peaks[counts[-1]] / peaks[counts[0]], 2)
    return {"what": "images at 224 made and kept, 32 at a time", "MB": peaks, "most / fewest": growth}


def job(*, smoke: bool) -> Row:
    """Minutes and the peak of memory of a whole job, from float weights to the proven file, in a process of its own."""
    network, side = ("cifar_networks:resnet20", 32) if smoke else ("networks:efficientnet_lite0", 224)
    with tempfile.TemporaryDirectory() as folder:
        config = {"model": {"source": f"python:{network}"}, "input_shape": [3, side, side], "recipe": "balanced"}
        more = {"calibration": {"num_samples": 4}} if smoke else {}
        Path(folder, "job.json").write_text(json.dumps({**config, **more, "output_dir": f"{folder}/out"}))
        paths = os.pathsep.join([str(HERE), str(HERE.parent / "examples"), os.environ.get("PYTHONPATH", "")])
        around = {**os.environ, "DFQ_CACHE_DIR": f"{folder}/cache", "PYTHONPATH": paths}
        command = [sys.executable, "-m", "dfq_plugin", "run", f"{folder}/job.json"]
        start = time.perf_counter()
        subprocess.run(command, env=around, capture_output=True, check=True)  # noqa: S603
        minutes = (time.perf_counter() - start) / 60
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    what = f"whole job, {network.split(':')[1]} W8A8, recipe balanced"
    return {"what": what, "minutes": round(minutes, 1), "GB": round(peak, 2)}


def multiplications(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of the convolutions for one image."""
    total = 0

    def count(layer: Any, _inputs: object, output: Tensor) -> None:  # noqa: ANN401 - a convolution
        nonlocal total
        total += layer.weight[0].numel() * output.numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(images(side, 1))
    for handle in handles:
        handle.remove()
    return total


def grown(what: str, sizes: Sequence[int], times: Sequence[float]) -> Row:
    """The slope of the logarithm of the time over that of the size, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (sizes, times))
    slope = statistics.linear_regression(x, y).slope
    points = dict(zip(sizes, (round(value, 4) for value in times), strict=True))
    return {"what": f"time of a step over {what}", "seconds": points, "exponent": round(slope, 2)}


if __name__ == "__main__":
    main()
