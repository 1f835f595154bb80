"""The quantizer of a weight, and the bias beside it, as standard operators.

    weight, other operand on codes   int8 codes -> DequantizeLinear
    weight, other operand in float   codes -> Cast -> Mul, which onnxruntime works out while it loads the file
    bias of two quantized operands   int32 codes at exactly input step x weight step -> DequantizeLinear
    bias beside a weight in float    int32 codes in very small steps, which keeps that weight in float

A DequantizeLinear beside a float operand would be worked out anew at every run, or become a product that quantizes its
other operand as well, which nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.errors import ExportError
from dfq_plugin.export.packing import Packing, store_codes
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, maker_of, readers, sizes_of, sole_reader

INTEGER_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
MAX_BIAS_CODE = 2**31 - 1
SMALLEST_BIAS = 1e-30  # keeps the step of a bias of zeros above zero


@dataclass(frozen=True)
class Stored:
    """Integer codes in the file with their steps, per channel along ``axis`` or one for all."""

    codes: ir.Value
    step: npt.NDArray[Any]
    axis: int | None


def lower_weight(surgeon: Surgeon, marker: ir.Node, packing: Packing) -> None:
    """Replace one marker.

    Raises:
        ExportError: the weight is no constant.
    """
    weight, step = array_of(marker.inputs[0]), array_of(marker.inputs[1])
    layer, axis = attribute(marker, "layer"), attribute(marker, "axis")
    if weight is None or step is None:
        msg = f"{layer}: its weight is computed at run time, so it has no fixed codes; add it to ignored_scopes."
        raise ExportError(msg)
    low, high = attribute(marker, "low"), attribute(marker, "high")
    codes = np.clip(np.rint(weight / _along(step, axis, weight.ndim)), low, high).astype(np.int8)

    def store(order: Sequence[int]) -> Stored:
        turned, bits = codes.transpose(order), int(high - low).bit_length()
        value = store_codes(surgeon, marker, turned, f"{layer}_weight", bits=bits, packing=packing)
        return Stored(value, step, None if axis is None else order.index(axis))

    for reader in readers(marker.outputs[0]):
        if reader.op_type == "Transpose":  # stored as it is read: a weight that is transposed at run time stays float
            _put_in_place(surgeon, marker, reader.outputs[0], store(list(attribute(reader, "perm"))))
            surgeon.graph.remove(reader, safe=True)
    if marker.outputs[0].uses():
        _put_in_place(surgeon, marker, marker.outputs[0], store(range(weight.ndim)))


def _put_in_place(surgeon: Surgeon, marker: ir.Node, weight: ir.Value, stored: Stored) -> None:
    """Let what reads ``weight`` read the values of the stored codes instead."""
    name = f"{attribute(marker, 'layer')}_weight"
    if any(_multiplies_codes(reader, weight) for reader in readers(weight)):
        values = _dequantize(surgeon, marker, stored, name)
    else:
        numbers = surgeon.insert(marker, "Cast", [stored.codes], {"to": ir.DataType.FLOAT}, name=f"{name}_numbers")
        steps = _along(stored.step, stored.axis, len(weight.shape or ())).astype(np.float32)
        factor = surgeon.constant(f"{name}_step", steps)
        values = surgeon.insert(marker, "Mul", [numbers, factor], name=name, shape=weight.shape)
    surgeon.replace(weight, values)


def _multiplies_codes(product: ir.Node, weight: ir.Value) -> bool:
    """Whether a product has an integer kernel and takes its other operand as codes."""
    if product.op_type not in INTEGER_PRODUCTS:
        return False
    operands = [value for value in product.inputs[:2] if value is not weight]
    return all(maker_of(operand, "DequantizeLinear") is not None for operand in operands)


def lower_bias(surgeon: Surgeon, node: ir.Node) -> None:
    """Hold a bias as int32 codes of the accumulator's own step: anything else would run in float or be ignored.

    Raises:
        ExportError: it does not fit 32 bits.
    """
    if node.op_type not in {"Conv", "Gemm"} or len(node.inputs) < 3:
        return
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return
    bias = array_of(node.inputs[2])
    operands = [maker_of(value, "DequantizeLinear") for value in node.inputs[:2]]
    steps = [array_of(operand.inputs[1]) for operand in operands if operand is not None]
    if bias is None or len(steps) < 2 or steps[0] is None or steps[1] is None:
        return
    step = np.float32(steps[0]) * np.asarray(steps[1], dtype=np.float32)
    codes = np.rint(bias.astype(np.float64) / step.astype(np.float64))
    if np.abs(codes).max(initial=0.0) > MAX_BIAS_CODE:
        msg = f"{node.name}: a bias does not fit 32 bits at step {step.min():g}; quantize the student again."
        raise ExportError(msg)
    _replace_bias(surgeon, node, codes, step)


def guard_float_weight(surgeon: Surgeon, node: ir.Node) -> None:
    """Keep onnxruntime from quantizing, by its own rules, a weight that is meant to stay in float.

    It does so to every float weight between DequantizeLinear and QuantizeLinear, unless there is a bias that it cannot
    quantize along: one behind a DequantizeLinear. So the bias is held in steps too fine to matter to float32.
    """
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm"} or maker_of(node.inputs[0], "DequantizeLinear") is None:
        return
    if maker_of(node.inputs[1], "DequantizeLinear") is not None or not _is_quantized(node):
        return
    given, weight_sizes = node.inputs[2] if len(node.inputs) > 2 else None, sizes_of(node.inputs[1])
    bias = array_of(given)
    if weight_sizes is None or (given is not None and bias is None):
        return
    if bias is None:
        bias = np.zeros(_output_channels(node, weight_sizes), dtype=np.float32)
    step = np.array(max(float(np.abs(bias).max()), SMALLEST_BIAS) / 2**30, dtype=np.float32)
    node.resize_inputs(3)
    _replace_bias(surgeon, node, np.rint(bias / step.astype(np.float64)), step)


def _output_channels(node: ir.Node, weight_sizes: Sequence[int | None]) -> int:
    if node.op_type == "ConvTranspose":
        return int(weight_sizes[1] or 0) * int(attribute(node, "group", 1))
    return int(weight_sizes[1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0] or 0)


def _is_quantized(node: ir.Node) -> bool:
    """Whether a node's output goes to QuantizeLinear and nowhere else, limited on the way or not."""
    reader = sole_reader(node.outputs[0])
    while reader is not None and reader.op_type in {"Relu", "Clip"}:
        reader = sole_reader(reader.outputs[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _replace_bias(surgeon: Surgeon, node: ir.Node, codes: npt.NDArray[Any], step: npt.NDArray[Any]) -> None:
    name = f"{node.name}_bias"
    value = surgeon.constant(f"{name}_codes", codes.astype(np.int32))
    stored = Stored(value, step, 0 if step.ndim else None)
    node.replace_input_with(2, _dequantize(surgeon, node, stored, name))


def _dequantize(surgeon: Surgeon, where: ir.Node, stored: Stored, name: str) -> ir.Value:
    """Codes * step, with zero point 0 of the codes' own type."""
    dtype = np.int32 if stored.codes.dtype == ir.DataType.INT32 else np.int8
    scale = surgeon.constant(f"{name}_step", stored.step.astype(np.float32))
    # For exact sums without VNNI onnxruntime copies codes and zero point of each weight, once and under one name.
    zero = surgeon.constant(f"{name}_zero", np.zeros(stored.step.shape, dtype=dtype), own=dtype is np.int8)
    inputs, axis = [stored.codes, scale, zero], {} if stored.axis is None else {"axis": stored.axis}
    return surgeon.insert(where, "DequantizeLinear", inputs, axis, name=name, shape=stored.codes.shape)


def _along(step: npt.NDArray[Any], axis: int | None, rank: int) -> npt.NDArray[Any]:
    """Steps shaped to be multiplied with a weight of that rank."""
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return step.reshape(shape)
