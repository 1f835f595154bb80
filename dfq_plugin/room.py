"""Room for sets of images that may be larger than memory."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

LARGE = 2**28  # bytes from which on a set lies in a file; what is smaller does no harm in memory
FLOAT_BYTES = 4
HAS_RESERVATION = hasattr(os, "posix_fallocate")

logger = logging.getLogger("nncf.dfq_plugin.synthesize")


def room_for_images(shape: Sequence[int], folder: Path | None) -> Tensor:
    """Make room for images, to be filled.

    A large set lies in a file without a name, so that the system may move to the disk what memory has no place for; the
    file is gone with the tensor, or with the process.

    Args:
        shape: (N, C, H, W).
        folder: Where the file goes; None keeps everything in memory.

    Returns:
        float32 on the CPU, its values undefined.
    """
    count = math.prod(shape)
    size = count * FLOAT_BYTES
    if folder is None or size < LARGE or not HAS_RESERVATION:
        return torch.empty(tuple(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".room.") as file:
            # Reserved beforehand: a page that the disk has no place for would end the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_file(file.name, shared=True, size=count).view(tuple(shape))
    except OSError as error:
        logger.debug("The images are made in memory: %s", error)
        return torch.empty(tuple(shape))
