"""Where things lie on this machine: the package's cache, NNCF's compiled kernels, and the tools to compile them.

Imports neither torch nor nncf, so that ``dfq doctor`` works where they are missing or broken.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import socket
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dfq_plugin.hardware import import_if_there

Device = Literal["cpu", "cuda"]
ExtensionState = Literal["built", "building", "cut off", "missing"]
FOLDER_VARIABLE = "DFQ_EXTENSION_DIR"
BUILDING = "building.json"  # there while a process builds, and after one that was killed
NEW_S = 60.0  # a lock that is younger may belong to a build whose compiler has not started yet
FINISHED = "built.json"  # written last, so that it vouches for the library it names
COMPILERS = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")  # torch looks for the first one only


def user_cache_folder() -> Path:
    """Say where this package keeps what it can make again, by the custom of the operating system."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dfq_plugin"


def set_cache_folder() -> Path:
    """Say where synthetic sets are kept: ``DFQ_CACHE_DIR``, or ``sets`` in the user's cache."""
    chosen = os.environ.get("DFQ_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_folder() / "sets"


def extension_folder(device: Device = "cpu") -> Path:
    """Say where NNCF's kernels for this device and the installed versions are, or will be, built; touches no file.

    First match: ``DFQ_EXTENSION_DIR``; ``dfq_plugin`` in ``TORCH_EXTENSIONS_DIR`` (beside, not among, what plain NNCF
    builds there without our lock); the user's cache. Below it, every set of versions has a folder of its own.
    """
    if own := os.environ.get(FOLDER_VARIABLE):
        root = Path(own)
    elif shared := os.environ.get("TORCH_EXTENSIONS_DIR"):
        root = Path(shared) / "dfq_plugin"
    else:
        root = user_cache_folder() / "nncf_extension"
    versions = f"{installed_version('torch')}-{installed_version('nncf')}-{sys.implementation.cache_tag}"
    return root.expanduser().absolute() / f"{versions}-{platform.machine()}-{device}"


def built_extension(folder: Path) -> Path | None:
    """Find the kernel library whose build came to its end in this folder; None when there is none."""
    library = read_json(folder / FINISHED).get("library")
    if not isinstance(library, str) or not (folder / library).is_file():
        return None
    inside = (folder / library).resolve().is_relative_to(folder.resolve())  # a note may name no library of elsewhere
    return folder / library if inside else None


def extension_state(folder: Path) -> ExtensionState:
    """Say how far the kernels in this folder are; changes nothing."""
    if built_extension(folder) is not None:
        return "built"
    note = read_json(folder / BUILDING)
    if not note:
        return "missing"
    elsewhere = note.get("host") != socket.gethostname()
    return "building" if elsewhere or _is_running(note.get("pid")) else "cut off"


def dead_locks() -> list[Path]:
    """Find locks that keep plain NNCF waiting for a build that no process does any more.

    A build makes a file called lock; with older torch its mere existence is the lock, so that one which was left by a
    killed process stops every later one.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or _torch_cache_folder()
    found = Path(root).expanduser().glob("**/nncf/**/lock")
    return sorted(lock for lock in found if not _has_library(lock.parent) and not _is_worked_in(lock.parent))


def _torch_cache_folder() -> Path:
    # As torch.utils.cpp_extension finds it, without importing torch.
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "torch_extensions"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def _has_library(folder: Path) -> bool:
    return any(path.suffix in {".so", ".pyd"} for path in folder.iterdir())


def _is_worked_in(folder: Path) -> bool:
    """Whether a process may be building here: one has the folder as its own, or that cannot be told."""
    psutil = import_if_there("psutil")
    if psutil is None or time.time() - (folder / "lock").stat().st_mtime < NEW_S:
        return True
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # gone meanwhile, or of another user
            if Path(process.cwd()).is_relative_to(folder):
                return True
    return False


def _is_running(pid: object) -> bool:
    psutil = import_if_there("psutil")
    return psutil is None or (isinstance(pid, int) and bool(psutil.pid_exists(pid)))


@dataclass(frozen=True)
class BuildTools:
    """What is there to compile NNCF's kernels with; None for what is missing.

    Attributes:
        ninja: The ninja program.
        compiler: The C++ compiler, as a command.
        python_header: Python's C header file.
        nvcc: The CUDA compiler.
    """

    ninja: str | None
    compiler: str | None
    python_header: str | None
    nvcc: str | None

    def missing(self, device: Device = "cpu") -> list[str]:
        """Name what the build for this device needs and the machine lacks, each with how to get it."""
        lacking = [] if self.ninja else ["ninja (pip install ninja)"]
        if not self.compiler:
            asked = os.environ.get("CXX")
            looked = f"the CXX environment variable says {asked!r}" if asked else f"looked for {', '.join(COMPILERS)}"
            lacking.append(f"a C++ compiler ({looked}; {_compiler_advice()})")
        if not self.python_header:
            lacking.append("Python's C headers (Debian and Ubuntu: apt-get install python3-dev; Fedora: python3-devel)")
        if device == "cuda" and not self.nvcc:
            lacking.append("nvcc (install the CUDA toolkit of torch's CUDA version and put its bin folder on PATH)")
        return lacking

    def environment(self) -> dict[str, str]:
        """Give the environment variables under which torch finds these tools."""
        changes = {}
        if self.ninja and shutil.which("ninja") is None:
            changes["PATH"] = os.pathsep.join([str(Path(self.ninja).parent), os.environ.get("PATH", os.defpath)])
        if self.compiler and "CXX" not in os.environ:
            changes["CXX"] = self.compiler
        return changes


def find_build_tools() -> BuildTools:
    """Look for the tools on PATH, beside Python, and where CXX and CUDA_HOME say."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    cuda_home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return BuildTools(
        ninja=shutil.which("ninja") or _ninja_of_this_python(),
        compiler=_find_compiler(),
        python_header=str(header) if header.is_file() else None,
        nvcc=shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(cuda_home) / "bin")),
    )


def installed_version(distribution: str) -> str | None:
    """Give the version of an installed distribution without importing it; None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when the file is missing or does not hold one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _find_compiler() -> str | None:
    if asked := os.environ.get("CXX"):
        words = shlex.split(asked)
        return asked if words and shutil.which(words[0]) else None
    return next((name for name in COMPILERS if shutil.which(name)), None)


def _ninja_of_this_python() -> str | None:
    # ninja is a dependency of this package: it lies beside python, in a folder that is on PATH only when the virtual
    # environment was activated.
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    folders.append(sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user")))
    return shutil.which("ninja", path=os.pathsep.join(folders))


def _compiler_advice() -> str:
    if sys.platform == "win32":
        return "install Visual Studio Build Tools and run from its developer prompt"
    if sys.platform == "darwin":
        return "xcode-select --install"
    return "Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; conda: conda install cxx-compiler"
