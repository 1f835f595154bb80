"""Export: a student becomes an ONNX file of standard operators that integer kernels can run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from dfq_plugin.config import ExportSettings
from dfq_plugin.errors import ExportError
from dfq_plugin.export.lowering import lower
from dfq_plugin.export.markers import trace, trace_network
from dfq_plugin.files import whole_file
from dfq_plugin.student import Student

__all__ = ["Exported", "export_float", "export_onnx"]

logger = logging.getLogger("nncf.dfq_plugin.export")


@dataclass(frozen=True)
class Exported:
    """A finished file: where it is and how large, in bytes."""

    path: Path
    size_bytes: int


def export_onnx(
    student: Student,
    path: str | Path,
    settings: ExportSettings | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write a student as an ONNX file with QuantizeLinear and DequantizeLinear nodes.

    Args:
        student: its biases are put on the integer grid first, so that it computes what the file computes.
        path: of the file; written under a temporary name and renamed, so that no partial file is ever seen.
        settings: operator set and weight packing.
        metadata: provenance to keep in the file, keys are prefixed with ``dfq.``.

    Raises:
        ExportError: the network cannot be traced, a quantizer cannot be written, or the file fails ONNX's own check.
    """
    settings = settings or ExportSettings()
    target = Path(path)
    student.snap_biases()
    model = trace(student, settings.opset)
    lower(model, settings.packing)
    _write(model, target, {f"dfq.{key}": value for key, value in (metadata or {}).items()})
    size = target.stat().st_size
    logger.info("Wrote %s (%.1f MB).", target, size / 1e6)
    return Exported(target, size)


def export_float(
    network: nn.Module, input_shape: tuple[int, int, int], path: str | Path, settings: ExportSettings
) -> Exported:
    """Write the float network as ONNX, to compare size and speed with.

    Args:
        network: in eval mode.
        input_shape: one image, (C, H, W).
        path: of the file.
        settings: operator set.

    Raises:
        ExportError: the network cannot be traced.
    """
    target = Path(path)
    _write(trace_network(network, input_shape, settings.opset), target)
    return Exported(target, target.stat().st_size)


def _write(model: ir.Model, target: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Check a model and put it in its place."""
    ClearMetadataAndDocStringPass()(model)  # the exporter's stack traces, several times the size of small networks
    model.producer_name = "dfq_plugin"
    model.metadata_props.update(metadata or {})
    try:
        with whole_file(target) as partial:
            ir.save(model, partial, format="protobuf")
            onnx.checker.check_model(str(partial), full_check=True)
    except onnx.checker.ValidationError as error:
        msg = f"The exported graph is not valid ONNX: {error}"
        raise ExportError(msg) from error
