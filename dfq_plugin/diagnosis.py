"""What ``dfq doctor`` finds out, as data and as text; ``doctor.py`` finds it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dfq_plugin.hardware import Gpu, Memory, Processor
from dfq_plugin.machine import BuildTools, ExtensionState
from dfq_plugin.wording import say_bytes

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
    """The compiled kernels of NNCF: how far they are, where they are or would be, and locks in plain NNCF's way."""

    state: ExtensionState
    folder: str
    dead_locks: tuple[str, ...] = ()

    @property
    def built(self) -> bool:
        """Whether they can be loaded."""
        return self.state == "built"


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
        features: What this package does, each with what it lacks here; nothing where it works.
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
    features: dict[str, tuple[str, ...]]
    caches: dict[str, int]
    findings: tuple[Finding, ...] = ()

    @property
    def level(self) -> Level:
        """The worst of the findings."""
        return max((finding.level for finding in self.findings), key=_LEVELS.index, default="ok")

    def to_json(self) -> dict[str, Any]:
        """Give the diagnosis as plain data."""
        extension = {**asdict(self.extension), "built": self.extension.built}
        return {"level": self.level, **asdict(self), "extension": extension}


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
    yield "NNCF kernels", f"{diagnosis.extension.state}, {diagnosis.extension.folder}"
    for folder, size in diagnosis.caches.items():
        yield "cache", f"{folder} ({say_bytes(size)})"
    for feature, missing in diagnosis.features.items():
        yield feature, f"lacks {', '.join(missing)}" if missing else "works"
