"""NNCF's compiled quantization kernels: built once, in a folder of this package, and never stuck behind a dead build.

NNCF compiles a C++ extension on first use, about a minute, through ``torch.utils.cpp_extension``. Left to itself the
build gives up after 60 seconds, falls back on slow kernels when ninja is not on PATH, and with some torch versions a
killed build leaves a ``lock`` file that blocks every later process. Here the build has its own folder, no time limit,
and a lock of the operating system, which ends with the process that holds it. Whoever holds that lock is the only
builder in the folder, so any ``lock`` file of torch found there belongs to a dead process and is removed.

A finished build is loaded straight from its file: without ninja, compiler or lock, also from a folder that cannot be
written, such as one in a container image.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
from nncf.torch.quantization import extensions

from dfq_plugin.errors import DFQError
from dfq_plugin.files import whole_file
from dfq_plugin.machine import (
    BUILDING,
    FINISHED,
    FOLDER_VARIABLE,
    BuildTools,
    Device,
    built_extension,
    extension_folder,
    find_build_tools,
    read_json,
)

logger = logging.getLogger("nncf.dfq_plugin.quantize")

BUILD = "nncf"  # where NNCF builds, inside TORCH_EXTENSIONS_DIR
NO_TIME_LIMIT = {"NNCF_EXTENSION_LOAD_TIMEOUT": "0"}
QUIET_WAIT_S = 1.0  # a lock held for longer than this is held by a build

_one_thread = threading.Lock()
_ready: dict[Device, Path] = {}


def ensure_extension(device: Device = "cpu") -> Path:
    """Have NNCF's quantization kernels loaded in this process, building them if this machine has never done so.

    Args:
        device: Which kernels: those for tensors in main memory, or on a CUDA device.

    Returns:
        The folder that holds the loaded library.

    Raises:
        DFQError: A tool for the build is missing, the folder cannot be written, or the build failed.
    """
    with _one_thread:
        if device not in _ready:
            namespace = _namespace(device)
            library = _loaded_library(namespace) or obtain(
                extension_folder(device),
                device,
                load=lambda library: _load(library, namespace),
                build=lambda folder: _build_with_nncf(folder, namespace),
            )
            _ready[device] = library.parent
        return _ready[device]


def obtain(folder: Path, device: Device, load: Callable[[Path], None], build: Callable[[Path], Path]) -> Path:
    """Load the library that was built in the folder, or build it there while no other process does.

    Args:
        folder: Where the build is, or goes.
        device: What the kernels are for, which decides the tools that the build needs.
        load: Loads a library file into this process; raises ImportError for one that does not fit.
        build: Builds in a folder, loads what it built, and gives back the library file.

    Returns:
        The library file.

    Raises:
        DFQError: A tool is missing, the folder cannot be written, or the build failed.
    """
    if library := _load_built(folder, load):
        return library
    with _build_lock(folder):
        if library := _load_built(folder, load):  # built while this process waited for the lock
            return library
        _clear_after_dead_build(folder)
        tools = find_build_tools()
        if missing := tools.missing(device):
            msg = f"NNCF's quantization kernels have to be compiled once; this machine lacks {'; and '.join(missing)}."
            raise DFQError(msg)
        return _build_and_note(folder, build, tools)


def _load_built(folder: Path, load: Callable[[Path], None]) -> Path | None:
    library = built_extension(folder)
    if library is not None:
        try:
            load(library)
        except ImportError as error:
            logger.warning("%s does not load and is built again: %s", library, error)
            return None
    return library


def _build_and_note(folder: Path, build: Callable[[Path], Path], tools: BuildTools) -> Path:
    logger.info("Building NNCF's quantization kernels (once, about a minute) in %s", folder)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    _write_json(_note(folder), {"pid": os.getpid(), "host": socket.gethostname(), "started": date})
    try:
        with _environment({"TORCH_EXTENSIONS_DIR": str(folder), **NO_TIME_LIMIT, **tools.environment()}):
            library = build(folder)
    finally:
        _note(folder).unlink(missing_ok=True)
    seconds = round(time.perf_counter() - clock, 1)
    where = os.path.relpath(library, folder)
    _write_json(folder / FINISHED, {"library": where, "seconds": seconds, "date": date, "compiler": tools.compiler})
    logger.info("Built NNCF's quantization kernels in %.0f s", seconds)
    return library


@contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "dfq_build.lock")
        try:
            lock.acquire(timeout=QUIET_WAIT_S)
        except filelock.Timeout:
            logger.info("Waiting for %s, which is building NNCF's quantization kernels in %s", _builder(folder), folder)
            lock.acquire()
    except OSError as error:
        msg = f"The folder for NNCF's quantization kernels, {folder}, cannot be used ({error}); "
        msg += f"set {FOLDER_VARIABLE} to a folder that this user may write."
        raise DFQError(msg) from error
    try:
        yield
    finally:
        lock.release()


def _clear_after_dead_build(folder: Path) -> None:
    # We hold the lock, so nobody builds here: torch's lock, our note and what is half built belong to a process that
    # is gone. Its compiler may still be running: the folder is moved from under it before it is deleted.
    _note(folder).unlink(missing_ok=True)
    if (folder / BUILD).exists():
        logger.debug("Removing what a build that was cut off left in %s", folder)
        (folder / BUILD).rename(folder / f"cut_off.{secrets.token_hex(4)}")
    for remains in folder.glob("cut_off.*"):
        shutil.rmtree(remains, ignore_errors=True)


def _note(folder: Path) -> Path:
    # Beside the lock, not in it: a file that another process has locked cannot be read on Windows.
    return folder / BUILDING


def _builder(folder: Path) -> str:
    note = read_json(_note(folder))
    return f"process {note.get('pid')} on {note.get('host')} (since {note.get('started')})" if note else "a process"


def _load(library: Path, namespace: Any) -> None:  # noqa: ANN401 - see _namespace
    # Not through NNCF, which would run ninja, and so need ninja, a compiler and a folder that can be written.
    spec = importlib.util.spec_from_file_location(library.stem, library)
    if spec is None or spec.loader is None:
        msg = f"{library} is not a Python extension"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    namespace._loaded_namespace = module  # noqa: SLF001 - the one place where NNCF looks for its kernels


def _build_with_nncf(folder: Path, namespace: Any) -> Path:  # noqa: ANN401 - see _namespace
    namespace._loaded_namespace = None  # noqa: SLF001 - forgets NNCF's slow substitute from an earlier failed build
    reason = ""
    with _nncf_messages_held() as held:
        try:
            namespace.get("Quantize_forward")
        except Exception as error:  # noqa: BLE001 - NNCF raises whatever the compiler, ninja or the linker met
            reason = str(error)
    library = _loaded_library(namespace)
    if library is None:
        msg = f"NNCF's quantization kernels could not be built in {folder}: {reason or ' '.join(held)}"
        raise DFQError(msg)
    return library


def _namespace(device: Device) -> Any:  # noqa: ANN401 - NNCF's ExtensionNamespace, or its stub on a machine without CUDA
    if device == "cpu":
        return extensions.QuantizedFunctionsCPU
    if not isinstance(extensions.QuantizedFunctionsCUDA, extensions.ExtensionNamespace):
        msg = "NNCF's CUDA kernels were asked for, but torch sees no CUDA device; move the network to the CPU."
        raise DFQError(msg)
    return extensions.QuantizedFunctionsCUDA


def _loaded_library(namespace: object) -> Path | None:
    # NNCF puts its pure-torch class here when it could not compile; only a compiled module has a file.
    file = getattr(getattr(namespace, "_loaded_namespace", None), "__file__", None)
    return Path(file) if file else None


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _nncf_messages_held() -> Iterator[list[str]]:
    """Hold back what NNCF logs about the build: our lines say it, and its warning becomes our error."""
    held: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        about_the_build = "extensions" in record.pathname
        if about_the_build and record.levelno >= logging.WARNING:
            held.append(record.getMessage())
        return not about_the_build

    nncf_logger = logging.getLogger("nncf")
    nncf_logger.addFilter(keep)
    try:
        yield held
    finally:
        nncf_logger.removeFilter(keep)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")
