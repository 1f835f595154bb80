"""Memory: what to do when it runs out, said in the words of the config, and how freed memory goes back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dfq_plugin.errors import MemoryLimitError

SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation")  # torch raises plain RuntimeErrors
SETTINGS = {
    "synthesize": "calibration.params.batch_size or calibration.num_samples",
    "quantize": "quantize.batch_size, quantize.num_init_samples or calibration.num_samples",
    "finetune": "finetune.batch_size or calibration.num_samples",
    "validate": "validate.parity_codes or the number of images",
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST = 2**31 - 1  # bytes; mallopt takes an int
USUAL = 2**25, 2**26  # bytes, where glibc arrives by itself once a block of 32 MB has been freed
_keeping: list[bool] = []  # one entry for each block that asks for it


@contextmanager
def memory_explained(stage: str) -> Iterator[None]:
    """Name the stage in which memory ran out, and what makes it need less.

    Raises:
        MemoryLimitError: memory ran out in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryLimitError) or not is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()
        said = f" ({reason[0]})" if reason else ""
        advice = f"Lower {SETTINGS[stage]}, or give" if stage in SETTINGS else "Give"
        msg = f"Memory ran out in stage '{stage}'{said}. {advice} the process more memory. What is finished is kept."
        raise MemoryLimitError(msg) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or onnxruntime means that memory could not be had."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep what large tensors leave behind, for the next ones, while the block runs.

    glibc maps blocks above 32 MB anew every time, and the system then finds and clears each of their pages: for the
    feature maps of a batch at 224 pixels that takes longer than the arithmetic. Blocks may lie within each other; when
    the outermost ends, what is free goes back.
    """
    _keeping.append(True)
    if len(_keeping) == 1:
        _set_thresholds(MOST, MOST)
    try:
        yield
    finally:
        _keeping.pop()
        if not _keeping:
            _set_thresholds(*USUAL)
            give_back_freed_memory()


def _set_thresholds(mapped: int, trimmed: int) -> None:
    """Say from what size on blocks are mapped on their own, and how much may lie free at the end of the heap."""
    if (mallopt := _of_c_library("mallopt")) is not None:
        mallopt(M_MMAP_THRESHOLD, mapped)
        mallopt(M_TRIM_THRESHOLD, trimmed)


def give_back_freed_memory() -> None:
    """Let the C library return what has been freed to the system.

    glibc keeps freed blocks of up to 32 MB for itself, but cannot put the tensors of the next batch where they were, so
    that a process grows with every batch it has made.
    """
    if (trim := _of_c_library("malloc_trim")) is not None:
        trim(0)


@cache
def _of_c_library(name: str) -> Any:  # noqa: ANN401 - a function of glibc, or None where the library is another one
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
