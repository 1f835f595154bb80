"""Tensors on disk: safetensors files that are either whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from dfq_plugin.errors import InputError
from dfq_plugin.files import whole_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it, so that no reader ever sees half a file.

    Args:
        path: The file to write; missing parent folders are made.
        tensors: What to write; tensors may be on any device and need not be contiguous.
        metadata: Text stored in the head of the file.

    Raises:
        OSError: The file cannot be written.
    """
    # Each tensor gets memory of its own: the format refuses those that share it, as slices of one tensor do.
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        metadata=dict(metadata or {}),
    )
    with whole_file(path) as partial:
        partial.write_bytes(_in_fixed_order(content))


def _in_fixed_order(content: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors shuffles it, so that equal sets would give unequal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:end])
    if "__metadata__" in head:
        head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors behind it stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor (on the CPU) and the metadata of a safetensors file.

    Raises:
        InputError: The file is missing, or is not a whole safetensors file.
    """
    if not path.is_file():
        msg = f"There is no file {path}."
        raise InputError(msg)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        msg = f"{path} cannot be read as a safetensors file ({error}); it may be cut off or of another format."
        raise InputError(msg) from error
