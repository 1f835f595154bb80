"""Finished batches of a long generation, kept on disk so that a killed run goes on where it stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from dfq_plugin.errors import InputError
from dfq_plugin.tensor_files import read_tensors, write_tensors

FORMAT = "dfq_plugin.batch/1"

logger = logging.getLogger("nncf.dfq_plugin.synthesize")


class BatchStore:
    """Keep the batches of one generation in a folder, one safetensors file each.

    A resumed run equals an unbroken one when every batch depends on the seed and its own index only, so derive the
    ``torch.Generator`` of a batch from both, and store everything that the batch contributes to the result.

    Args:
        folder: Where the files go, usually ``request.checkpoint_folder``; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, index: int) -> dict[str, Tensor] | None:
        """Give the tensors saved for a batch, on the CPU; None when it has to be made (again)."""
        if self.folder is None or not self._file(self.folder, index).is_file():
            return None
        try:
            tensors, origin = read_tensors(self._file(self.folder, index), own=True)
        except InputError as error:
            logger.warning("Batch %d is made again: %s", index, error)
            return None
        if origin != self._origin(self.folder, index):
            file = self._file(self.folder, index)
            logger.warning("Batch %d is made again: %s is of another generation", index, file)
            return None
        return tensors

    def save(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Keep the tensors of a finished batch; whoever reads sees the whole file or none."""
        if self.folder is None:
            return
        try:
            write_tensors(self._file(self.folder, index), tensors, self._origin(self.folder, index))
        except OSError as error:  # a full disk should cost the chance to resume, not the hours of work so far
            logger.warning("Batch %d and those after it are not kept: %s", index, error)
            self.folder = None

    @staticmethod
    def _origin(folder: Path, index: int) -> dict[str, str]:
        # The folder is named after the request: a file that was moved here from elsewhere says so.
        return {"format": FORMAT, "generation": folder.name, "batch": str(index)}

    @staticmethod
    def _file(folder: Path, index: int) -> Path:
        return folder / f"batch_{index:06d}.safetensors"
