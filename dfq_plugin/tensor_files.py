"""Tensors on disk: safetensors files that are either whole or not there, and know the digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from dfq_plugin.errors import InputError
from dfq_plugin.files import whole_file

KINDS = {  # as the format calls them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
METADATA, DIGEST = "__metadata__", "dfq_plugin.sha256"
MAX_HEAD_BYTES = 100 * 2**20  # what the safetensors library itself accepts
BLOCK_BYTES = 2**20


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it, so that no reader ever sees half a file.

    Args:
        path: The file to write; missing parent folders are made.
        tensors: What to write; tensors may be on any device and need not be contiguous.
        metadata: Text stored in the head of the file.

    Raises:
        OSError: The file cannot be written.
    """
    # Written here rather than by the library, which copies everything twice: a set of images can be most of the memory.
    placed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    order = sorted(placed, key=lambda name: (-placed[name].element_size(), name))  # so that each is aligned
    head: dict[str, Any] = {METADATA: dict(metadata or {})}
    end = 0
    for name in order:
        tensor, start = placed[name], end
        end += tensor.numel() * tensor.element_size()
        head[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    # Strides are given, since those of an axis of one element may be anything, even where the tensor is contiguous.
    flat = (placed[name].as_strided((placed[name].numel(),), (1,)) for name in order)
    bodies = [values.view(torch.uint8).numpy().data for values in flat]
    head[METADATA] = {**head[METADATA], DIGEST: _digest(head, bodies)}
    text = _as_text(head)
    text += b" " * (-len(text) % 8)  # the tensors behind it stay aligned
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for body in bodies:
            file.write(body)


def read_tensors(path: Path, *, own: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor (on the CPU) and the metadata of a safetensors file.

    Args:
        path: The file.
        own: Whether it has to be one that ``write_tensors`` wrote, with the digest of its content.

    Raises:
        InputError: The file is missing, is not a whole safetensors file, or is not as it was written.
    """
    if not path.is_file():
        msg = f"There is no file {path}."
        raise InputError(msg)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            _check_digest(path, metadata.pop(DIGEST, None), required=own)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - no dictionary
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"{path} cannot be read as a safetensors file ({error}); it may be cut off or of another format."
        raise InputError(msg) from error


def _check_digest(path: Path, expected: str | None, *, required: bool) -> None:
    if expected is None and not required:
        return
    if expected is None:
        msg = f"{path} holds no digest of its content, so it is not a file that this package has written."
        raise InputError(msg)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEAD_BYTES:
            msg = f"{path} has a head of {size} bytes, which is none of a safetensors file."
            raise InputError(msg)
        head = json.loads(file.read(size))
        head[METADATA].pop(DIGEST)
        found = _digest(head, iter(lambda: file.read(BLOCK_BYTES), b""))
    if found != expected:
        msg = f"{path} is not as it was written: its content has another digest than the file says. Delete it."
        raise InputError(msg)


def _digest(head: Mapping[str, Any], body: Iterator[bytes] | list[memoryview]) -> str:
    digest = hashlib.sha256(_as_text(head))
    for block in body:
        digest.update(block)
    return digest.hexdigest()


def _as_text(head: Mapping[str, Any]) -> bytes:
    """The head with its metadata sorted: safetensors shuffles it, so that equal sets would give unequal files."""
    ordered = {**head, METADATA: dict(sorted(head.get(METADATA, {}).items()))}
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
