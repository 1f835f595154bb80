"""Trace a student to ONNX with one marker node where each quantizer stood.

PyTorch's exporter only knows 8-bit fake quantizers and writes them in a form that integer kernels cannot use. A marker
is a node of a private domain that carries the quantizer's exact grid through the exporter untouched; ``lowering``
replaces every one of them, so a finished file never holds a marker.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dfq_plugin.errors import ExportError
from dfq_plugin.student import Grid, Student

DOMAIN = "dfq"
MARKER = "QuantizeDequantize"


class Marker(nn.Module):
    """Stands in for one quantizer while the student is traced."""

    step: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, kind: str, layer: str) -> None:
        super().__init__()
        self.register_buffer("step", grid.step.clone())
        self.register_buffer("zero_point", grid.zero_point.clone())
        self.attributes: dict[str, Any] = {"low": grid.low, "high": grid.high, "kind": kind, "layer": layer}
        if grid.axis is not None:
            self.attributes["axis"] = grid.axis

    def forward(self, values: Tensor) -> Tensor:
        """Emit the marker node; ``values`` has any shape and keeps it."""
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{MARKER}",
            (values, self.step, self.zero_point),
            self.attributes,
            dtype=values.dtype,
            shape=values.shape,
            version=1,
        )


def trace(student: Student, opset: int) -> ir.Model:
    """The student as an ONNX graph with markers, batch axis dynamic.

    Args:
        student: left as it is; a copy is traced.
        opset: version of the standard operator set.

    Raises:
        ExportError: a quantizer has no usable grid, or PyTorch cannot trace the network.
    """
    marked = copy.deepcopy(student).eval()
    for site in student.sites:
        if not student.quantizer(site.name).is_enabled_quantization():
            marked.replace_quantizer(site.name, nn.Identity())
            continue
        marked.replace_quantizer(site.name, Marker(student.grid(site), site.kind, site.layer))
    return trace_network(marked, student.input_shape, opset)


def trace_network(network: nn.Module, input_shape: tuple[int, int, int], opset: int) -> ir.Model:
    """Any network of one image batch as an ONNX graph, batch axis dynamic.

    Raises:
        ExportError: PyTorch cannot trace it; its own message is repeated.
    """
    example = torch.zeros(2, *input_shape, device=next(network.parameters()).device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter are not the user's to act on
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        msg = f"PyTorch cannot trace {type(network).__name__} for ONNX: {error}"
        raise ExportError(msg) from error
    if program is None:
        msg = "PyTorch's exporter returned nothing."
        raise ExportError(msg)
    return program.model
