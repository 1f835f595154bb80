"""Weights that a model keeps outside of its file: only in whole files beside it, whoever wrote the model.

A model names the file, and where in it each tensor lies. One from elsewhere could name any file of the machine, by an
absolute path, through ``..`` or through a link, or an address in the memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from dfq_plugin.errors import InputError

MAX_DEPTH = 64  # of graphs in graphs


def outside_files(model: onnx.ModelProto, path: Path) -> set[Path]:
    """The files beside a model that it keeps weights in.

    Args:
        model: read without them.
        path: of the model.

    Raises:
        InputError: it names a file that is elsewhere, is a link, is missing, or is smaller than the model says.
    """
    files = set()
    for tensor in _tensors(model.graph, 0):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            file = _checked_file(told.get("location", ""), path, tensor.name)
            _check_extent(told, file, path, tensor.name)
            files.add(file)
    return files


def _checked_file(location: str | bytes, path: Path, tensor: str) -> Path:
    if isinstance(location, bytes):  # what protobuf gives for text that is no UTF-8
        raise InputError(_refusal(path, tensor, repr(location), "which is no text"))
    outside = PureWindowsPath(location)  # knows drives and both kinds of slashes
    if not location or outside.is_absolute() or outside.drive or PurePosixPath(location).is_absolute():
        raise InputError(_refusal(path, tensor, location, "which is no name of a file beside it"))
    if ".." in outside.parts:
        raise InputError(_refusal(path, tensor, location, "which leads out of its folder"))
    file = path.parent / location
    steps = [file, *file.parents][: len(PurePosixPath(location).parts)]
    if any(step.is_symlink() for step in steps):
        raise InputError(_refusal(path, tensor, location, "which is a link"))
    if not file.is_file():
        raise InputError(_refusal(path, tensor, location, "which is no file beside it"))
    return file


def _check_extent(told: dict[str, str], file: Path, path: Path, tensor: str) -> None:
    size = file.stat().st_size
    try:
        offset, length = int(told.get("offset", "0")), int(told.get("length", "0"))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > size:
        place = f"offset {told.get('offset', 0)}, length {told.get('length', 'not given')}"
        raise InputError(_refusal(path, tensor, file.name, f"at a place that it does not have ({place}; {size} bytes)"))


def _refusal(path: Path, tensor: str, location: str, problem: str) -> str:
    return (
        f"{path} keeps the weight '{tensor}' in '{location}', {problem}. Use a model that was saved with its data "
        "in the same folder."
    )


def _tensors(graph: onnx.GraphProto, depth: int) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph and in the graphs inside it."""
    if depth > MAX_DEPTH:
        msg = f"A model has more than {MAX_DEPTH} graphs inside each other."
        raise InputError(msg)
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer or inner.sparse_initializer:
                    yield from _tensors(inner, depth + 1)
