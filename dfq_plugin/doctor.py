"""What this machine has, and what to do about what it lacks: the answer of ``dfq doctor``.

Looks without building, downloading or changing anything, unless told to ``fix``, and imports other packages only when
asked, so that it still answers where one of them is missing or broken.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dfq_plugin import __version__
from dfq_plugin.diagnosis import Diagnosis, Extension, Finding, format_diagnosis
from dfq_plugin.hardware import EXACT_SUMS, Gpu, Processor, import_if_there, read_gpus, read_memory, read_processor
from dfq_plugin.machine import (
    BuildTools,
    dead_locks,
    extension_folder,
    extension_state,
    find_build_tools,
    installed_version,
    set_cache_folder,
)
from dfq_plugin.wording import say_bytes

__all__ = ["Diagnosis", "Extension", "Finding", "examine", "fix", "format_diagnosis"]

DISTRIBUTION = "dfq-plugin"
SHOWN = ("torch", "torchvision", "timm", "nncf", "onnx", "onnx-ir", "onnxruntime")
CORE = ("torch", "nncf", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors", "pydantic", "typer", "json5")
EXTRAS = {
    "vision": ("torchvision", "timm"),
    "report": ("matplotlib", "jinja2"),
    "tracking": ("tensorboard", "mlflow"),
    "distributed": ("accelerate",),
}
MISSED_BY_MANY = {"vision": "models from torchvision: and timm:", "report": "the HTML report"}
QUANTIZE, ON_GPU = "quantizing", "training on a GPU"
FEATURES = {  # what each thing that this package does asks for beside itself
    QUANTIZE: ("torch", "nncf"),
    "export and proof": ("onnx", "onnx-ir", "onnxscript", "onnxruntime"),
    "timm, torchvision": EXTRAS["vision"],
    "HTML report": EXTRAS["report"],
    "OpenVINO": ("openvino",),
    "TensorBoard": ("tensorboard",),
    "MLflow": ("mlflow",),
    "many processes": EXTRAS["distributed"],
}
LOW_MEMORY = 2 * 1024**3
LARGE_CACHE = 10 * 1024**3


def examine() -> Diagnosis:
    """Look at this machine and judge whether it can quantize, build, run and report."""
    folder = extension_folder()
    tools, gpus, extension = find_build_tools(), read_gpus(), _look_at_extension(folder)
    facts = Diagnosis(
        versions={
            "python": platform.python_version(),
            DISTRIBUTION: __version__,
            **{name: installed_version(name) for name in SHOWN},
        },
        processor=read_processor(),
        memory=read_memory(),
        gpus=gpus,
        tools=tools,
        extension=extension,
        missing_extras=_missing_extras(),
        features=_features(tools, gpus, extension),
        caches={str(place): _size(place) for place in (set_cache_folder(), folder.parent) if place.is_dir()},
    )
    return replace(facts, findings=tuple(_judge(facts)))


def _look_at_extension(folder: Path) -> Extension:
    return Extension(extension_state(folder), str(folder), tuple(map(str, dead_locks())))


def _features(tools: BuildTools, gpus: tuple[Gpu, ...], extension: Extension) -> dict[str, tuple[str, ...]]:
    """What this package does, each with what it lacks."""
    lacking = {
        name: tuple(package for package in packages if installed_version(package) is None)
        for name, packages in FEATURES.items()
    }
    kernels = () if extension.built else tuple(tools.missing())
    cuda = () if gpus else ("a GPU that torch can use",)
    return {
        **lacking,
        QUANTIZE: lacking[QUANTIZE] + kernels,
        ON_GPU: cuda + (tuple(tools.missing("cuda")) if gpus else ()),
    }


def fix() -> list[str]:
    """Remove what dead builds of NNCF's kernels left behind, and build the kernels where they are missing.

    Returns:
        What was done, one sentence each.

    Raises:
        DFQError: the kernels cannot be built.
    """
    done = []
    for lock in dead_locks():
        lock.unlink(missing_ok=True)
        done.append(f"Removed {lock}, which a build that is no more had left.")
    state = extension_state(extension_folder())
    if state != "built":
        if installed_version("nncf") is None or import_if_there("torch") is None:
            return [*done, "NNCF's kernels cannot be built before torch and nncf can be imported."]
        from dfq_plugin.quantization.extension import ensure_extension  # noqa: PLC0415 - needs torch and nncf

        done.append(f"Built NNCF's quantization kernels in {ensure_extension()}.")
    return done or ["There was nothing to fix."]


def _judge(facts: Diagnosis) -> Iterator[Finding]:
    yield from _judge_packages()
    yield from _judge_torchvision()
    yield _judge_extension(facts)
    yield from _judge_locks(facts.extension)
    yield _judge_processor(facts.processor)
    yield from _judge_extras(facts.missing_extras)
    yield from _judge_resources(facts)


def _judge_packages() -> Iterator[Finding]:
    bounds = _version_bounds()
    wrong = []
    for name in CORE:
        version, bound = installed_version(name), bounds.get(name)
        if version is None:
            wrong.append(Finding("error", f"{name} is not installed.", f"pip install '{name}{bound or ''}'"))
        elif bound is not None and not bound.contains(version, prereleases=True):
            wrong.append(
                Finding("error", f"{name} {version} does not fit: {bound} is needed.", f"pip install '{name}{bound}'")
            )
    yield from wrong or [Finding("ok", "All required packages are installed.")]


def _judge_torchvision() -> Iterator[Finding]:
    """Each torchvision works with one torch; with another it fails in ways that do not say so."""
    vision, torch = installed_version("torchvision"), installed_version("torch")
    if vision is None or torch is None:
        return
    bound = _version_bounds("torchvision").get("torch")
    advice = "pip install --upgrade torch torchvision, both from the same index"
    if bound is not None and not bound.contains(torch, prereleases=True):
        yield Finding("error", f"torchvision {vision} was made for torch {bound}, but torch is {torch}.", advice)
    elif import_if_there("torchvision") is None:
        yield Finding("error", f"torchvision {vision} is installed and cannot be imported.", advice)


def _judge_locks(extension: Extension) -> Iterator[Finding]:
    if extension.dead_locks:
        what = (
            f"A build of plain NNCF was cut off and left {', '.join(extension.dead_locks)}; it may wait there forever."
        )
        yield Finding("warn", what, "dfq doctor --fix")


def _version_bounds(distribution: str = DISTRIBUTION) -> dict[str, Any]:
    requirements = import_if_there("packaging.requirements")
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout: nothing says which versions are needed
        lines = []
    parsed = [requirements.Requirement(line) for line in lines] if requirements else []
    return {requirement.name: requirement.specifier for requirement in parsed}


def _judge_extension(facts: Diagnosis) -> Finding:
    if facts.extension.built:
        return Finding("ok", f"NNCF's quantization kernels are built in {facts.extension.folder}.")
    if facts.extension.state == "building":
        return Finding("ok", f"Another process is building NNCF's quantization kernels in {facts.extension.folder}.")
    missing = facts.tools.missing()
    if missing:
        return Finding("error", "NNCF's quantization kernels cannot be built.", f"Missing: {'; and '.join(missing)}.")
    if facts.extension.state == "cut off":
        what = "A build of NNCF's quantization kernels was cut off; the next use clears it away and builds anew."
        return Finding("ok", what, "dfq doctor --fix does it now.")
    what = "NNCF's quantization kernels will be built on first use (once, about a minute)."
    return Finding("ok", what, "dfq doctor --fix does it now.")


def _judge_processor(processor: Processor) -> Finding:
    saturates = processor.may_saturate_w8a8
    advice = (
        f'Run files with onnxruntime\'s session option {EXACT_SUMS} = 1, as validation does, or set "overflow_fix": '
        '"enable" in the section "quantize"; weights or activations below 8 bits are safe as is.'
    )
    if saturates is None:
        return Finding(
            "warn", "Which instructions the processor has is not known; without VNNI, W8A8 saturates.", advice
        )
    if saturates:
        return Finding("warn", "The processor has no VNNI: W8A8 may saturate in onnxruntime's integer kernels.", advice)
    if not processor.is_x86:
        what = "Some integer kernels round differently on ARM: expect single codes to differ from the reference by one."
        return Finding("warn", what, "Take the parity figures of an x86 machine with VNNI as the proof.")
    return Finding("ok", "The processor multiplies 8-bit integers without saturating (VNNI or AMX).")


def _judge_extras(missing: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    for extra, packages in missing.items():
        if packages:
            needed_for = MISSED_BY_MANY.get(extra)
            purpose = f", needed for {needed_for}" if needed_for else " (optional)"
            what = f"Extra '{extra}' lacks {', '.join(packages)}{purpose}."
            yield Finding("warn" if needed_for else "ok", what, f"pip install '{DISTRIBUTION}[{extra}]'")


def _judge_resources(facts: Diagnosis) -> Iterator[Finding]:
    available = facts.memory.available
    if available is not None and available < LOW_MEMORY:
        advice = "Close other programs, or lower calibration.num_samples and the provider's batch_size."
        yield Finding("warn", f"Only {say_bytes(available)} of memory are free.", advice)
    if facts.gpus and facts.tools.nvcc is None:
        what = "torch sees a GPU, but nvcc is missing, with which NNCF compiles its CUDA kernels."
        yield Finding("warn", what, "Install the CUDA toolkit of torch's CUDA version, or fine-tune on the CPU.")
    size = sum(facts.caches.values())
    if size > LARGE_CACHE:
        advice = f"Delete what you do not need in {' and '.join(facts.caches)}; all of it can be made again."
        yield Finding("warn", f"The caches take {say_bytes(size)}.", advice)


def _missing_extras() -> dict[str, tuple[str, ...]]:
    return {
        extra: tuple(name for name in packages if installed_version(name) is None) for extra, packages in EXTRAS.items()
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
