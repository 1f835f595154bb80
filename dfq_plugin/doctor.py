"""What this machine has, and what to do about what it lacks: the answer of ``dfq doctor``.

Looks without building, downloading or changing anything, and imports other packages only when asked, so that it still
answers where one of them is missing or broken.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dfq_plugin import __version__
from dfq_plugin.hardware import Gpu, Memory, Processor, import_if_there, read_gpus, read_memory, read_processor
from dfq_plugin.machine import (
    BuildTools,
    built_extension,
    extension_folder,
    find_build_tools,
    installed_version,
    set_cache_folder,
)
from dfq_plugin.wording import say_bytes

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
LOW_MEMORY = 2 * 1024**3
LARGE_CACHE = 10 * 1024**3

Level = Literal["ok", "warn", "error"]
_LEVELS: tuple[Level, ...] = ("ok", "warn", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do about it."""

    level: Level
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Extension:
    """The compiled kernels of NNCF: whether they are built, and where they are or would be."""

    built: bool
    folder: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything ``dfq doctor`` knows.

    Attributes:
        versions: Version of each package; None when it is not installed.
        processor: The CPU.
        memory: Main memory, in bytes.
        gpus: CUDA devices that torch can use.
        tools: What NNCF's kernels would be compiled with.
        extension: NNCF's compiled kernels for the CPU.
        missing_extras: For each extra of this package, its packages that are not installed.
        caches: Folders that this package keeps on this machine, with their size in bytes.
        findings: What is fine and what is not.
    """

    versions: dict[str, str | None]
    processor: Processor
    memory: Memory
    gpus: tuple[Gpu, ...]
    tools: BuildTools
    extension: Extension
    missing_extras: dict[str, tuple[str, ...]]
    caches: dict[str, int]
    findings: tuple[Finding, ...] = ()

    @property
    def level(self) -> Level:
        """The worst of the findings."""
        return max((finding.level for finding in self.findings), key=_LEVELS.index, default="ok")

    def to_json(self) -> dict[str, Any]:
        """Give the diagnosis as plain data."""
        return {"level": self.level, **asdict(self)}


def examine() -> Diagnosis:
    """Look at this machine and judge whether it can quantize, build, run and report."""
    folder = extension_folder()
    facts = Diagnosis(
        versions={
            "python": platform.python_version(),
            DISTRIBUTION: __version__,
            **{name: installed_version(name) for name in SHOWN},
        },
        processor=read_processor(),
        memory=read_memory(),
        gpus=read_gpus(),
        tools=find_build_tools(),
        extension=Extension(built=built_extension(folder) is not None, folder=str(folder)),
        missing_extras=_missing_extras(),
        caches={str(place): _size(place) for place in (set_cache_folder(), folder.parent) if place.is_dir()},
    )
    return replace(facts, findings=tuple(_judge(facts)))


def _judge(facts: Diagnosis) -> Iterator[Finding]:
    yield from _judge_packages()
    yield _judge_extension(facts)
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


def _version_bounds() -> dict[str, Any]:
    requirements = import_if_there("packaging.requirements")
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout: nothing says which versions are needed
        lines = []
    parsed = [requirements.Requirement(line) for line in lines] if requirements else []
    return {requirement.name: requirement.specifier for requirement in parsed}


def _judge_extension(facts: Diagnosis) -> Finding:
    if facts.extension.built:
        return Finding("ok", f"NNCF's quantization kernels are built in {facts.extension.folder}.")
    missing = facts.tools.missing()
    if missing:
        return Finding("error", "NNCF's quantization kernels cannot be built.", f"Missing: {'; and '.join(missing)}.")
    return Finding("ok", "NNCF's quantization kernels will be built on first use (once, about a minute).")


def _judge_processor(processor: Processor) -> Finding:
    saturates = processor.may_saturate_w8a8
    advice = (
        'Set "overflow_fix": "enable" in the section "quantize"; weights or activations below 8 bits are safe as is.'
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


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Lay the diagnosis out as text: a table of facts, then the findings with their advice."""
    rows = list(_rows(diagnosis))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines.append("")
    for finding in diagnosis.findings:
        label = f"[{finding.level}] "
        lines.append(label + finding.what)
        if finding.advice:
            lines.append(" " * len(label) + finding.advice)
    return "\n".join(lines)


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    for name, version in diagnosis.versions.items():
        yield name, version or "not installed"
    processor, memory, tools = diagnosis.processor, diagnosis.memory, diagnosis.tools
    yield "processor", f"{processor.name} ({processor.architecture})"
    yield "instructions", "not known" if processor.instructions is None else " ".join(processor.instructions) or "none"
    yield "cores", f"{processor.usable_cores} of {processor.cores} usable"
    if memory.total is not None and memory.available is not None:
        yield "memory", f"{say_bytes(memory.total)}, {say_bytes(memory.available)} free"
    gpus = [f"{gpu.name} ({say_bytes(gpu.memory)})" for gpu in diagnosis.gpus]
    yield "GPU", ", ".join(gpus) or "none"
    yield "compiler", tools.compiler or "not found"
    yield "ninja", tools.ninja or "not found"
    yield "NNCF kernels", f"{'built' if diagnosis.extension.built else 'not built'}, {diagnosis.extension.folder}"
    for folder, size in diagnosis.caches.items():
        yield "cache", f"{folder} ({say_bytes(size)})"
