"""What to do when memory runs out, said in the words of the config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
