"""Export: a student becomes an ONNX file of standard operators that integer kernels can run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dfq_plugin.config import ExportSettings
from dfq_plugin.errors import ExportError
from dfq_plugin.export.lowering import lower
from dfq_plugin.export.markers import trace
from dfq_plugin.export.tracing import trace_network
from dfq_plugin.export.writing import model_size, move_model, remove_model, write_model
from dfq_plugin.finite import broken_tensors, listed
from dfq_plugin.student import Student

__all__ = ["Exported", "export_float", "export_onnx", "move_model", "remove_model"]

logger = logging.getLogger("nncf.dfq_plugin.export")


@dataclass(frozen=True)
class Exported:
    """A finished file: where it is and how large, in bytes, with the data file beside it if there is one."""

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
        path: of the file; written under a temporary name and renamed, so that no partial file is ever seen. Weights of
            more than 2 GB go into a file beside it, with ``.data`` at the end of its name.
        settings: operator set and weight packing.
        metadata: provenance to keep in the file, keys are prefixed with ``dfq.``.

    Raises:
        ExportError: the student is not finite, the network cannot be traced, a quantizer cannot be written, or the file
            fails ONNX's own check.
    """
    settings = settings or ExportSettings()
    target = Path(path)
    for site in student.sites:
        grid = student.grid(site)  # names the layer whose range is broken, which the names of tensors do not
        if site.kind == "weight" and grid.zero_point.any():
            msg = f"{site.layer}: its weight has zero points, which no integer kernel takes; quantize with placement "
            msg += "'deployable' instead of 'relu_only'."
            raise ExportError(msg)
    if broken := broken_tensors(student.network):
        msg = f"The student holds numbers that are not finite, in {listed(broken)}; quantize and fine-tune it again."
        raise ExportError(msg)
    student.snap_biases()
    model = trace(student, settings.opset)
    lower(model, settings.packing)
    write_model(model, target, {f"dfq.{key}": value for key, value in (metadata or {}).items()})
    size = model_size(target)
    logger.info("Exported: %.1f MB.", size / 1e6)  # no path: the pipeline renames the file once it is proven
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
    write_model(trace_network(network, input_shape, settings.opset), target)
    return Exported(target, model_size(target))
