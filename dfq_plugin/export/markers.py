"""Trace a student to ONNX with one marker node where each quantizer stood.

PyTorch's exporter only knows 8-bit fake quantizers and writes them in a form that integer kernels cannot use. A marker
is a node of a private domain that carries the quantizer's exact grid through the exporter untouched; ``lowering``
replaces every one of them, so a finished file never holds a marker.
"""

from __future__ import annotations

import copy
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dfq_plugin.export.surgery import DOMAIN, MARKER
from dfq_plugin.export.tracing import trace_network
from dfq_plugin.student import Grid, Student

NETWORK = "network.network"  # where the user's network stands in a student; its layers are named without it


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


class _LargeModuleDict(nn.ModuleDict):
    """Looks up one entry by touching one entry.

    While PyTorch traces, the dictionary of a module's children is made anew, wrappers and all, each time it is asked
    for. NNCF asks its dictionary of hooks twice at every operator: hundreds of entries at hundreds of operators.
    """

    def __contains__(self, key: str) -> bool:
        return key in self.__dict__["_modules"]

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - a module of any kind
        return getattr(self, key)


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
    for module in marked.modules():
        if type(module) is nn.ModuleDict:
            module.__class__ = _LargeModuleDict
    return trace_network(marked, student.input_shape, opset, root=NETWORK)
