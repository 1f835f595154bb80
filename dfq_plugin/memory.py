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


def give_back_freed_memory() -> None:
    """Let the C library return what has been freed to the system.

    glibc keeps freed blocks of up to 32 MB for itself, but cannot put the tensors of the next batch where they were, so
    that a process grows with every batch it has made.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:  # noqa: ANN401 - a function of the C library, or None where it is another one
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
