"""What this machine computes with: the processor and its instructions, memory, GPUs; without torch, less is known."""

from __future__ import annotations

import importlib
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

# Instructions that decide how integer kernels run: our name -> names in Linux' /proc/cpuinfo, and in torch.
INSTRUCTIONS = {
    "avx2": ("avx2", "avx2"),
    "avx512f": ("avx512f", "avx512_f"),
    "avx512_vnni": ("avx512_vnni", "avx512_vnni"),
    "avx_vnni": ("avx_vnni", "avx_vnni"),
    "amx_int8": ("amx_int8", "amx_int8"),
    "dotprod": ("asimddp", "dot"),
    "i8mm": ("i8mm", "i8mm"),
    "sve": ("sve", "sve"),
}
DOT_PRODUCT_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
# The option of an onnxruntime session with which W8A8 is exact on x86 without these; elsewhere it changes nothing.
EXACT_SUMS = "session.x64quantprecision"


@dataclass(frozen=True)
class Processor:
    """A CPU.

    Attributes:
        name: What the maker calls it.
        architecture: ``x86_64``, ``aarch64``, ``arm64``, ...
        instructions: Those of ``INSTRUCTIONS`` that it has; None when that cannot be found out here.
        cores: Logical cores of the machine.
        usable_cores: Logical cores that this process may use.
    """

    name: str
    architecture: str
    instructions: tuple[str, ...] | None
    cores: int
    usable_cores: int

    @property
    def is_x86(self) -> bool:
        """Whether it is an Intel or AMD processor, or one that runs their code."""
        return self.architecture.lower() in {"x86_64", "amd64", "i386", "i686", "x86"}

    @property
    def may_saturate_w8a8(self) -> bool | None:
        """Whether 8-bit weights with 8-bit activations may overflow in onnxruntime's kernels; None when not known.

        Without VNNI or AMX, x86 sums pairs of products in 16 bits (``vpmaddubsw``): 2 * 255 * 127 does not fit.
        """
        if not self.is_x86:
            return False
        return None if self.instructions is None else DOT_PRODUCT_INSTRUCTIONS.isdisjoint(self.instructions)


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; None for what cannot be found out here."""

    total: int | None
    available: int | None


@dataclass(frozen=True)
class Gpu:
    """A CUDA device that torch can use; memory in bytes."""

    name: str
    memory: int


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Ask the operating system, then torch, about the processor."""
    facts = _cpuinfo_facts(cpuinfo)
    capabilities = _torch_capabilities()
    flags = facts.get("flags") or facts.get("Features")
    instructions: tuple[str, ...] | None = None
    if flags:
        instructions = tuple(name for name, (linux, _) in INSTRUCTIONS.items() if linux in flags.split())
    elif capabilities:
        instructions = tuple(name for name, (_, torchs) in INSTRUCTIONS.items() if capabilities.get(torchs))
    cores = os.cpu_count() or 1
    return Processor(
        name=facts.get("model name") or capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        instructions=instructions,
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
    )


def read_memory(container_limit: Path = Path("/sys/fs/cgroup/memory.max")) -> Memory:
    """Ask for the memory of the machine, or of the container when that is less."""
    psutil = import_if_there("psutil")
    if psutil is None:
        return Memory(total=None, available=None)
    now = psutil.virtual_memory()
    try:
        limit = int(container_limit.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or its limit is the word "max"
        limit = now.total
    return Memory(total=min(now.total, limit), available=min(now.available, limit))


def read_gpus() -> tuple[Gpu, ...]:
    """List the CUDA devices that torch can use."""
    torch = import_if_there("torch")
    if torch is None:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about a driver that is too old; an empty list says the same
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
        properties = [torch.cuda.get_device_properties(index) for index in devices]
    return tuple(Gpu(name=device.name, memory=device.total_memory) for device in properties)


def import_if_there(name: str) -> ModuleType | None:
    """Import a module; None when it is not installed, or is there and cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError):  # a half-installed package fails in many ways
        return None


def _cpuinfo_facts(cpuinfo: Path) -> dict[str, str]:
    try:
        first_core = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n", maxsplit=1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _torch_capabilities() -> Mapping[str, Any]:
    ask = getattr(getattr(import_if_there("torch"), "cpu", None), "get_capabilities", None)
    return ask() if ask is not None else {}
