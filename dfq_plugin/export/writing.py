"""Model files: checked before anyone sees them, whole or not there, of any size.

ONNX files end at 2 GB. The weights of a larger model go into a data file beside it, ``model.onnx.data``, which the
model names; the two belong together and are put in place, moved and removed together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from dfq_plugin.errors import ExportError

MAX_WEIGHT_BYTES = 2**31 - 2**26  # of a single file, which also holds the graph


def data_file(path: Path) -> Path:
    """Where the weights of a large model lie."""
    return path.with_name(f"{path.name}.data")


def model_size(path: Path) -> int:
    """Bytes of a model with its data file, if it has one."""
    return sum(file.stat().st_size for file in (path, data_file(path)) if file.exists())


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
    """
    ClearMetadataAndDocStringPass()(model)  # the exporter's stack traces, several times the size of small networks
    model.producer_name = "dfq_plugin"
    model.metadata_props.update(metadata or {})
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".partial") as folder:
        draft = Path(folder) / target.name
        data = data_file(draft).name if weights > limit else None
        ir.save(model, draft, format="protobuf", external_data=data)
        try:
            onnx.checker.check_model(str(draft), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            msg = f"The exported graph is not valid ONNX: {error}"
            raise ExportError(msg) from error
        _put_in_place(draft, target)


def move_model(source: str | Path, target: str | Path) -> None:
    """Rename a model, with its data file if it has one; what was at ``target`` is replaced.

    Args:
        source: the model's file.
        target: its new name, on the same disk.
    """
    source, target = Path(source), Path(target)
    if not data_file(source).exists():
        _put_in_place(source, target)
        return
    proto = onnx.load(source, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data_file(target).name
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".partial") as folder:
        draft = Path(folder) / target.name
        draft.write_bytes(proto.SerializeToString())
        data_file(source).replace(data_file(draft))
        _put_in_place(draft, target)
    source.unlink()


def remove_model(path: str | Path) -> None:
    """Remove a model and its data file, where they exist."""
    path = Path(path)
    path.unlink(missing_ok=True)
    data_file(path).unlink(missing_ok=True)


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename a model and its data so that no model is ever seen with another's data."""
    if data_file(draft).exists():
        target.unlink(missing_ok=True)
        data_file(draft).replace(data_file(target))
        draft.replace(target)
    else:
        draft.replace(target)
        data_file(target).unlink(missing_ok=True)
