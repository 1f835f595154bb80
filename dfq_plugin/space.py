"""Whether the disk has room for what a job writes, known before the work begins."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from dfq_plugin.config import Config
from dfq_plugin.errors import OutputError
from dfq_plugin.files import NO_SPACE
from dfq_plugin.teacher import Teacher

FLOAT_BYTES = 4
REPORTS = 16 * 2**20  # what the report and the description of the student stay well below


def require_space(output: Path, config: Config, teacher: Teacher) -> None:
    """Raise when the output folder's disk cannot hold the synthetic set, the student and the files made of it.

    Args:
        output: the output folder.
        config: the whole job.
        teacher: the float network.

    Raises:
        OutputError: there is too little room.
    """
    needed, free = estimate_bytes(config, teacher), shutil.disk_usage(output).free
    if free < needed:
        msg = (
            f"The output folder {output} has {_megabytes(free)} MB left, but this job writes about "
            f"{_megabytes(needed)} MB. Make room, or choose another folder with --output."
        )
        raise OutputError(NO_SPACE, msg)


def estimate_bytes(config: Config, teacher: Teacher) -> int:
    """The most that the output folder holds at one time while a job runs, roughly."""
    images = config.calibration.num_samples * math.prod(config.input_shape) * FLOAT_BYTES
    weights = (
        sum(tensor.numel() for tensor in (*teacher.network.parameters(), *teacher.network.buffers())) * FLOAT_BYTES
    )
    # The student, and the exported file beside the one that it replaces, each at most as large as the float network.
    copies = 3
    if config.finetune.epochs:
        copies += 2 * 3  # the checkpoint beside the one that it replaces: weights and the two moments of Adam
    return images + copies * weights + REPORTS


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}"
