"""What blocks have learned, kept on disk block by block, so that a killed reconstruction goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from dfq_plugin.config.quantize_settings import ReconstructionSettings
from dfq_plugin.student import Student
from dfq_plugin.teacher import digest_of
from dfq_plugin.tensor_files import write_tensors
from dfq_plugin.training_state import part, read_state, under

FORMAT, DONE = "dfq_plugin.blocks/1", "blocks"

logger = logging.getLogger("nncf.dfq_plugin.quantize")


class BlockCheckpoint:
    """One safetensors file, written anew after every block; whoever reads sees the whole file or none.

    Args:
        path: Of the file; None keeps nothing.
        student: As it is before the first block learns.
        images: (N, C, H, W) that the blocks learn from.
        settings: Of the reconstruction.

    Raises:
        InputError: The file is that of a run with other settings, another student or other images.
    """

    def __init__(self, path: Path | None, student: Student, images: Tensor, settings: ReconstructionSettings) -> None:
        self._path = path
        self._run = {} if path is None else _describe(student, images, settings)
        self._state = read_state(path, self._run, "Reconstruction", logger, needed=[DONE])

    def load(self, index: int) -> dict[str, Tensor] | None:
        """What the block has learned, on the CPU; None when it has still to learn."""
        if index >= self._done:
            return None
        return part(f"{index}", self._state)

    @property
    def _done(self) -> int:
        return int(self._state.get(DONE, 0))

    def save(self, index: int, learned: Mapping[str, Tensor]) -> None:
        """Keep what a block has learned, beside what those before it have."""
        if self._path is None or index < self._done:  # it was read from there
            return
        self._state |= under(f"{index}", {name: tensor.detach().cpu() for name, tensor in learned.items()})
        self._state[DONE] = torch.tensor(index + 1)
        try:
            write_tensors(self._path, self._state, self._run)
        except OSError as error:  # a full disk should cost the chance to resume, not the work so far
            logger.warning("Block %d and those after it are not kept: %s", index, error)
            self._path = None


def _describe(student: Student, images: Tensor, settings: ReconstructionSettings) -> dict[str, str]:
    """Everything that has to be the same for a run to go on from a checkpoint."""
    plan = json.dumps([asdict(entry) for entry in student.plan])
    return {
        "format": FORMAT,
        "settings": settings.model_dump_json(),
        "student": hashlib.sha256(f"{digest_of(student.network)}{plan}".encode()).hexdigest(),
        "images": hashlib.sha256(images.detach().cpu().contiguous().numpy().data).hexdigest(),
    }
