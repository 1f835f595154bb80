"""Model files: checked before anyone sees them, whole or not there, of any size.

ONNX files end at 2 GB. The weights of a larger model go into a data file beside it, which the model names. The data
file's own name holds the digest of its content, so that a new model's data never replaces an older one's: it is there
first, and the renaming of the model is the one moment at which the new model takes over.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from dfq_plugin.errors import ExportError
from dfq_plugin.files import draft_folder, put_in_place

MAX_WEIGHT_BYTES = 2**31 - 2**26  # of a single file, which also holds the graph
DIGITS = 16  # of the digest in a data file's name
BLOCK_BYTES = 2**20


def data_files(path: Path) -> list[Path]:
    """The files beside a model that hold its weights, or those of an older one of its name."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * DIGITS}.data"))


def model_size(path: Path) -> int:
    """Bytes of a model with its data file, if it has one."""
    return sum(file.stat().st_size for file in (path, *data_files(path)) if file.exists())


def write_model(
    model: ir.Model, target: Path, metadata: Mapping[str, str] | None = None, limit: int = MAX_WEIGHT_BYTES
) -> None:
    """Check a model and put it in its place.

    Args:
        model: finished; its origin is written into it.
        target: of the file; nothing is seen there before it is whole and valid.
        metadata: to keep in the file.
        limit: bytes of weights above which they go into a data file.

    Raises:
        ExportError: it fails ONNX's own check.
        OutputError: the disk is full, or refuses; what was at ``target`` before is still there.
    """
    ClearMetadataAndDocStringPass()(model)  # the exporter's stack traces, several times the size of small networks
    model.producer_name = "dfq_plugin"
    model.metadata_props.update(metadata or {})
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    with draft_folder(target) as folder:
        draft, data = folder / target.name, folder / "weights.data"
        ir.save(model, draft, format="protobuf", external_data=data.name if weights > limit else None)
        try:
            onnx.checker.check_model(str(draft), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            msg = f"The exported graph is not valid ONNX: {error}"
            raise ExportError(msg) from error
        _put_model(draft, data if data.exists() else None, target)


def move_model(source: str | Path, target: str | Path) -> None:
    """Rename a model, with its data file if it has one; what was at ``target`` is replaced.

    Args:
        source: the model's file, as ``write_model`` left it.
        target: its new name, on the same disk.

    Raises:
        OutputError: the disk is full, or refuses; what was at ``target`` before is still there.
    """
    source, target = Path(source), Path(target)
    with draft_folder(target) as folder:
        draft, data = folder / target.name, folder / "weights.data"
        own = [file for file in data_files(source) if file.name in _locations(source)]
        for name, file in [(draft, source), *((data, file) for file in own)]:
            _second_name(file, name)  # the first one stays good until the move is done
        _put_model(draft, data if own else None, target)
    remove_model(source)


def remove_model(path: str | Path) -> None:
    """Remove a model and its data file, where they exist."""
    path = Path(path)
    path.unlink(missing_ok=True)
    for file in data_files(path):
        file.unlink(missing_ok=True)


def _put_model(draft: Path, data: Path | None, target: Path) -> None:
    """Give a draft its name, its data first; then remove the data of the model that was there before."""
    kept = []
    if data is not None:
        kept = [target.with_name(f"{target.name}.{_digest(data)}.data")]
        _name_data(draft, kept[0].name)
        put_in_place(data, kept[0])
    put_in_place(draft, target)
    for file in data_files(target):
        if file not in kept:
            file.unlink(missing_ok=True)


def _name_data(path: Path, name: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        if entry.key == "location":
            entry.value = name
    path.unlink()  # it may be a second name of the model that is being moved
    path.write_bytes(model.SerializeToString())


def _locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _second_name(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # not on every file system
        shutil.copyfile(file, name)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]
