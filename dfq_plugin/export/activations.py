"""The quantizer of an activation as standard operators.

QuantizeLinear (uint8) -> Clip (uint8, where not all codes are used) -> DequantizeLinear
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.errors import ExportError
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, maker_of, scalar, sole_reader

UINT8_MAX = 255


def lower_activation(surgeon: Surgeon, marker: ir.Node) -> None:
    """Replace one marker.

    Raises:
        ExportError: it has one step per channel.
    """
    source, step, zero = marker.inputs[0], array_of(marker.inputs[1]), array_of(marker.inputs[2])
    layer, shape = attribute(marker, "layer"), marker.outputs[0].shape
    if source is None or step is None or zero is None or step.size != 1:
        msg = f"{layer}: one step per channel has no integer kernel; use one step per tensor for activations."
        raise ExportError(msg)
    grid = np.float32(step.item()), int(zero.item())
    bounds = attribute(marker, "low"), min(attribute(marker, "high"), UINT8_MAX)
    scale = surgeon.constant(f"{layer}_step", scalar(float(grid[0]), np.float32))
    zero_point = surgeon.constant(f"{layer}_zero", scalar(grid[1], np.uint8))
    numbers = array_of(source)
    if numbers is not None:
        fixed = np.clip(_codes(numbers, *grid), *bounds).astype(np.uint8)
        codes = surgeon.constant(f"{layer}_codes", fixed)
    else:
        source, bounds = _take_over_limit(surgeon, marker, source, grid, bounds)
        uint8: dict[str, Any] = {"dtype": ir.DataType.UINT8, "shape": shape}
        codes = surgeon.insert(marker, "QuantizeLinear", [source, scale, zero_point], name=f"{layer}_codes", **uint8)
        # onnxruntime melts two quantizers in a row into one of a third grid, unless something stands between them.
        if bounds != (0, UINT8_MAX) or maker_of(source, "DequantizeLinear") is not None:
            limits = [surgeon.constant(f"code_{bound}", scalar(bound, np.uint8)) for bound in bounds]
            codes = surgeon.insert(marker, "Clip", [codes, *limits], name=f"{layer}_clipped", **uint8)
    values = surgeon.insert(marker, "DequantizeLinear", [codes, scale, zero_point], name=f"{layer}_values", shape=shape)
    surgeon.replace(marker.outputs[0], values)


def _codes(numbers: npt.NDArray[Any], step: np.float32, zero: int) -> npt.NDArray[np.float32]:
    """The codes that QuantizeLinear's kernel computes in float32, before it saturates."""
    return np.asarray(np.rint(numbers.astype(np.float32) / step) + np.float32(zero))


def _take_over_limit(
    surgeon: Surgeon, marker: ir.Node, source: ir.Value, grid: tuple[np.float32, int], bounds: tuple[int, int]
) -> tuple[ir.Value, tuple[int, int]]:
    """Let the quantizer limit codes where a Relu or Clip in front of it limits values.

    A Clip of floats would keep the product in front of it in float, and so would a Relu whose zero is not the smallest
    code. Rounding keeps order: to limit and then round is to round and then limit at the rounded bounds.

    Returns:
        What to quantize, and the smallest and largest code.
    """
    limit = maker_of(source, "Relu", "Clip")
    limits = None if limit is None else _limits(limit)
    if limit is None or limits is None or limit.inputs[0] is None or sole_reader(source) is not marker:
        return source, bounds
    smallest, largest = np.clip(_codes(np.array(limits), *grid), *bounds).astype(int).tolist()
    unlimited = limit.inputs[0]
    if grid[1] == 0 and limits[0] == 0.0:  # the quantizer implies this Relu, and kernels take it
        if limit.op_type == "Relu":
            return source, (smallest, largest)
        unlimited = surgeon.insert(
            marker, "Relu", [unlimited], name=f"{attribute(marker, 'layer')}_relu", shape=source.shape
        )
    return unlimited, (smallest, largest)


def _limits(limit: ir.Node) -> tuple[float, float] | None:
    """The bounds of a Relu or Clip, None where they are computed at run time."""
    bounds = [0.0, np.inf] if limit.op_type == "Relu" else [-np.inf, np.inf]
    for index, bound in enumerate(limit.inputs[1:3]):
        if bound is not None:
            number = array_of(bound)
            if number is None:
                return None
            bounds[index] = float(number.item())
    return bounds[0], bounds[1]
