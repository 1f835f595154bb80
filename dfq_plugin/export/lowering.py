"""Replace every marker by standard operators, in the form that onnxruntime turns into integer kernels.

    activation   QuantizeLinear (uint8) -> Clip (uint8, below 8 bits) -> DequantizeLinear
    weight       int8 codes -> DequantizeLinear
    bias         int32 codes at exactly input step x weight step -> DequantizeLinear

Then every DequantizeLinear is moved below the operators that only rearrange codes, so that these run on codes too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.errors import ExportError
from dfq_plugin.export.packing import Packing, store_codes
from dfq_plugin.export.rewrites import rewrite
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, is_marker, readers, scalar

UINT8_MAX = 255
# Operators that move codes around without looking at their values.
REARRANGING = frozenset({"MaxPool", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad", "Identity"})


def lower(model: ir.Model, packing: Packing) -> None:
    """Turn a traced model with markers into a finished one, in place.

    Raises:
        ExportError: a marker could not be lowered.
    """
    surgeon = Surgeon(model.graph)
    rewrite(surgeon)
    for node in list(model.graph):
        if is_marker(node):
            if attribute(node, "kind") == "weight":
                _lower_weight(surgeon, node, packing)
            else:
                _lower_activation(surgeon, node)
    surgeon.remove_dead()
    _sink_dequantizers(surgeon)
    for node in list(model.graph):
        if node.op_type in {"Conv", "Gemm"}:
            _lower_bias(surgeon, node)
    surgeon.remove_dead()
    _assert_no_marker(model)


def _lower_weight(surgeon: Surgeon, marker: ir.Node, packing: Packing) -> None:
    weight, step = array_of(marker.inputs[0]), array_of(marker.inputs[1])
    layer, axis = attribute(marker, "layer"), attribute(marker, "axis")
    if weight is None or step is None:
        msg = f"{layer}: its weight is computed at run time, so it has no fixed codes; add it to ignored_scopes."
        raise ExportError(msg)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    low, high = attribute(marker, "low"), attribute(marker, "high")
    codes = np.clip(np.rint(weight / step.reshape(shape)), low, high).astype(np.int8)
    target, readers_ = marker.outputs[0], readers(marker.outputs[0])
    if len(readers_) == 1 and readers_[0].op_type == "Transpose":  # stored as read: a transposed weight stays float
        order = attribute(readers_[0], "perm")
        codes, target = codes.transpose(order), readers_[0].outputs[0]
        axis = None if axis is None else list(order).index(axis)
    stored = store_codes(surgeon, marker, codes, f"{layer}_weight", bits=_bits(low, high), packing=packing)
    surgeon.replace(target, _dequantize(surgeon, marker, stored, step, axis=axis, name=f"{layer}_weight"))


def _bits(low: int, high: int) -> int:
    return int(high - low).bit_length()


def _dequantize(
    surgeon: Surgeon, where: ir.Node, codes: ir.Value, step: npt.NDArray[Any], *, axis: int | None, name: str
) -> ir.Value:
    """Codes * step, with zero point 0 of the codes' own type."""
    dtype = np.int32 if codes.dtype == ir.DataType.INT32 else np.int8
    scale = surgeon.constant(f"{name}_step", step.astype(np.float32))
    zero = surgeon.constant(f"{name}_zero", np.zeros(step.shape, dtype=dtype))
    attributes = {} if axis is None else {"axis": axis}
    inputs = [codes, scale, zero]
    return surgeon.insert(
        where, "DequantizeLinear", inputs, attributes, name=name, dtype=ir.DataType.FLOAT, shape=codes.shape
    )


def _lower_activation(surgeon: Surgeon, marker: ir.Node) -> None:
    source, step, zero = marker.inputs[0], array_of(marker.inputs[1]), array_of(marker.inputs[2])
    layer = attribute(marker, "layer")
    if source is None or step is None or zero is None or step.size != 1:
        msg = f"{layer}: one step per channel has no integer kernel; use one step per tensor for activations."
        raise ExportError(msg)
    top = min(attribute(marker, "high"), UINT8_MAX)
    source, limit = _relu_for_clip(surgeon, marker, source, step.item(), int(zero))
    top = min(top, limit)
    scale = surgeon.constant(f"{layer}_step", scalar(step.item(), np.float32))
    zero_point = surgeon.constant(f"{layer}_zero", scalar(int(zero), np.uint8))
    uint8: dict[str, Any] = {"dtype": ir.DataType.UINT8, "shape": marker.outputs[0].shape}
    codes = surgeon.insert(marker, "QuantizeLinear", [source, scale, zero_point], name=f"{layer}_codes", **uint8)
    if top < UINT8_MAX:
        bounds = [surgeon.constant(f"code_{bound}", scalar(bound, np.uint8)) for bound in (0, top)]
        codes = surgeon.insert(marker, "Clip", [codes, *bounds], name=f"{layer}_clipped", **uint8)
    values = surgeon.insert(
        marker,
        "DequantizeLinear",
        [codes, scale, zero_point],
        name=f"{layer}_values",
        dtype=ir.DataType.FLOAT,
        shape=marker.outputs[0].shape,
    )
    surgeon.replace(marker.outputs[0], values)


def _relu_for_clip(surgeon: Surgeon, marker: ir.Node, source: ir.Value, step: float, zero: int) -> tuple[ir.Value, int]:
    """A ReLU6 in front of an unsigned quantizer becomes a Relu and a lower top code: a float Clip stays float.

    Returns:
        What to quantize, and the largest code it may reach.
    """
    clip = source.producer()
    if clip is None or clip.op_type != "Clip" or zero != 0:
        return source, UINT8_MAX
    bottom, ceiling = array_of(clip.inputs[1]), array_of(clip.inputs[2]) if len(clip.inputs) > 2 else None
    if bottom is None or ceiling is None or bottom.item() != 0.0:
        return source, UINT8_MAX
    relu = surgeon.insert(
        marker, "Relu", [clip.inputs[0]], name=f"{source.name}_relu", dtype=ir.DataType.FLOAT, shape=source.shape
    )
    return relu, min(UINT8_MAX, int(np.rint(np.float32(ceiling.item()) / np.float32(step))))


def _sink_dequantizers(surgeon: Surgeon) -> None:
    """Move each activation's DequantizeLinear below the rearranging operators that read it."""
    queue = [node for node in surgeon.graph if node.op_type == "DequantizeLinear" and array_of(node.inputs[0]) is None]
    while queue:
        dequantizer = queue.pop()
        moving = [reader for reader in readers(dequantizer.outputs[0]) if _moves_codes(reader, dequantizer)]
        queue.extend(_sink(surgeon, dequantizer, reader) for reader in moving)
    surgeon.remove_dead()


def _moves_codes(reader: ir.Node, dequantizer: ir.Node) -> bool:
    if reader.op_type not in REARRANGING or reader.inputs[0] is not dequantizer.outputs[0] or len(reader.outputs) != 1:
        return False
    if reader.op_type != "Pad" or attribute(reader, "mode", "constant") != "constant":
        return True
    fill = array_of(reader.inputs[2]) if len(reader.inputs) > 2 and reader.inputs[2] is not None else np.zeros(())
    return fill is not None and fill.item() == 0.0  # zero has a code of its own, the zero point


def _sink(surgeon: Surgeon, dequantizer: ir.Node, reader: ir.Node) -> ir.Node:
    codes, scale, zero_point = dequantizer.inputs
    reader.replace_input_with(0, codes)
    if reader.op_type == "Pad" and attribute(reader, "mode", "constant") == "constant":
        reader.resize_inputs(max(3, len(reader.inputs)))
        reader.replace_input_with(2, zero_point)
    moved = reader.outputs[0]
    inputs = [moved, scale, zero_point]
    values = surgeon.insert(
        reader,
        "DequantizeLinear",
        inputs,
        name=f"{moved.name}_values",
        dtype=ir.DataType.FLOAT,
        shape=moved.shape,
        after=True,
    )
    lowered = values.producer()
    if lowered is None:
        msg = f"{moved.name}: lost its DequantizeLinear."
        raise ExportError(msg)
    surgeon.replace(moved, values)
    lowered.replace_input_with(0, moved)
    moved.type = ir.TensorType(ir.DataType.UINT8)
    return lowered


def _lower_bias(surgeon: Surgeon, node: ir.Node) -> None:
    """Hold the bias as int32 codes of the accumulator's own step: anything else would run in float or be ignored."""
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    operands = [value.producer() if value is not None else None for value in node.inputs[:2]]
    if bias is None or any(operand is None or operand.op_type != "DequantizeLinear" for operand in operands):
        return
    steps = [array_of(operand.inputs[1]) for operand in operands if operand is not None]
    step = np.float32(steps[0]) * np.asarray(steps[1], dtype=np.float32)
    codes = np.rint(bias.astype(np.float64) / step.astype(np.float64))
    if np.abs(codes).max(initial=0.0) >= 2**31:
        msg = f"{node.name}: a bias does not fit 32 bits at step {step.min():g}; quantize the student again."
        raise ExportError(msg)
    name = str(node.inputs[2].name if node.inputs[2] is not None else node.name)
    axis = 0 if step.ndim else None
    stored = surgeon.constant(f"{name}_codes", codes.astype(np.int32))
    node.replace_input_with(2, _dequantize(surgeon, node, stored, step, axis=axis, name=f"{name}_values"))


def _assert_no_marker(model: ir.Model) -> None:
    left = [attribute(node, "layer") for node in model.graph if is_marker(node)]
    if left:
        msg = f"Quantizers at {', '.join(left)} could not be written; add these operators to ignored_scopes."
        raise ExportError(msg)
    model.graph.opset_imports.pop("dfq", None)
