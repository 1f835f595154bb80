"""An independent run of an exported file: integer arithmetic in numpy and torch, without onnxruntime.

The graph is read operator by operator. A tensor behind DequantizeLinear stays codes with a grid; a product of two such
tensors stays an exact integer sum until a QuantizeLinear asks for codes or the graph's output asks for float. Operators
that have no integer form here give an ``UNKNOWN`` value; codes behind them are taken from the run that is checked, and
are not counted as compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.validation.arithmetic import (
    Accumulator,
    Array,
    Codes,
    Pooled,
    Sum,
    convolve,
    multiply,
    pool_globally,
    quantize,
)

Pending = Accumulator | Sum | Pooled


class Unknown:
    """The value of an operator that only exists in float."""


UNKNOWN = Unknown()


@dataclass(frozen=True)
class ReferenceRun:
    """What the reference computed.

    Attributes:
        codes: uint8 codes by tensor name, for every tensor of codes it could compute itself.
        output: float32 logits, or None when a float operator stands in front of them.
    """

    codes: dict[str, Array]
    output: Array | None


class IntegerReference:
    """Runs one exported model in exact integer arithmetic."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._output = model.graph.output[0].name

    def run(self, images: Array, given: Mapping[str, Array]) -> ReferenceRun:
        """Run ``images``, (N, C, H, W) float32.

        Args:
            images: the input.
            given: codes to continue with behind operators that only exist in float.
        """
        values: dict[str, Any] = {**self._constants, self._graph.input[0].name: images}
        computed: dict[str, Array] = {}
        for node in self._graph.node:
            inputs = [values[name] if name else None for name in node.input]
            result = self._apply(node, inputs)
            name = node.output[0]
            if isinstance(result, np.ndarray) and result.dtype == np.uint8 and name not in self._constants:
                computed[name] = result
            elif isinstance(result, Unknown) and name in given:
                result = given[name]
            values.update(dict.fromkeys(node.output, UNKNOWN))
            values[name] = result
        final = values[self._output]
        return ReferenceRun(computed, final.to_float() if isinstance(final, Accumulator) else None)

    def _apply(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:  # noqa: ANN401 - codes, sums or floats
        rule = RULES.get(node.op_type)
        if rule is None or any(isinstance(value, Unknown) for value in inputs):
            return UNKNOWN
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        return rule(inputs, attributes)


Rule = Callable[[list[Any], dict[str, Any]], Any]
RULES: dict[str, Rule] = {}


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


def _movement(*op_types: str) -> Callable[[Rule], Rule]:
    """A rule that only moves numbers: codes, images and constants, but no sum that waits to be requantized."""

    def register(function: Rule) -> Rule:
        def on_arrays(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
            return function(inputs, attributes) if isinstance(inputs[0], np.ndarray) else UNKNOWN

        return _rule(*op_types)(on_arrays)

    return register


@_rule("QuantizeLinear")
def _quantize(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    values, step, zero = inputs
    if isinstance(values, Pending):
        return values.requantize(np.float32(step), int(zero))
    return quantize(values, np.float32(step), int(zero)) if isinstance(values, np.ndarray) else UNKNOWN


@_rule("DequantizeLinear")
def _dequantize(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    codes, step, zero = inputs
    if np.size(zero) > 1:
        shape = [1] * codes.ndim
        shape[attributes.get("axis", 1)] = -1
        zero = zero.reshape(shape)
    return Codes(codes, step, zero)


@_movement("Cast")
def _cast(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    return inputs[0].astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))


@_rule("Clip")
def _clip(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    values, low, high = inputs
    return np.clip(values, low, high) if _are_codes(values) else UNKNOWN


@_rule("Relu")
def _relu(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    return inputs[0].rectify() if isinstance(inputs[0], Accumulator | Sum) else UNKNOWN


@_rule("Conv")
def _conv(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    if not all(isinstance(value, Codes) for value in inputs if value is not None):
        return UNKNOWN
    spatial = inputs[1].codes.ndim - 2
    return convolve(
        inputs[0],
        inputs[1],
        inputs[2] if len(inputs) > 2 else None,
        strides=attributes.get("strides", [1] * spatial),
        pads=attributes.get("pads", [0] * 2 * spatial),
        dilations=attributes.get("dilations", [1] * spatial),
        group=attributes.get("group", 1),
    )


@_rule("Gemm", "MatMul")
def _product(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    if not all(isinstance(value, Codes) for value in inputs if value is not None) or attributes.get("transA"):
        return UNKNOWN
    bias = inputs[2] if len(inputs) > 2 else None
    return multiply(inputs[0], inputs[1], bias, transpose_right=bool(attributes.get("transB", 0)))


@_rule("Add")
def _add(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    left, right = inputs
    return Sum(left, right) if isinstance(left, Codes) and isinstance(right, Codes) else UNKNOWN


@_rule("GlobalAveragePool")
def _global_pool(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    return pool_globally(inputs[0]) if isinstance(inputs[0], Codes) else UNKNOWN


@_rule("MaxPool")
def _max_pool(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    codes, kernel = inputs[0], attributes["kernel_shape"]
    if not _are_codes(codes) or len(kernel) != 2 or attributes.get("ceil_mode", 0):
        return UNKNOWN
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    padded = F.pad(torch.from_numpy(codes.astype(np.float32)), [left, right, top, bottom])  # codes are >= 0
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.max_pool2d(padded, kernel, strides, 0, dilations).numpy().astype(np.uint8)


@_rule("Reshape")
def _reshape(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    values, shape = inputs
    if not isinstance(values, np.ndarray | Pooled):
        return UNKNOWN
    before = values.total.shape if isinstance(values, Pooled) else values.shape
    keep = not attributes.get("allowzero", 0)
    return values.reshape([before[i] if size == 0 and keep else int(size) for i, size in enumerate(shape)])


@_movement("Transpose")
def _transpose(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    return inputs[0].transpose(attributes.get("perm"))


@_movement("Squeeze")
def _squeeze(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    return np.squeeze(inputs[0], tuple(inputs[1]) if len(inputs) > 1 else None)


@_movement("Unsqueeze")
def _unsqueeze(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    return np.expand_dims(inputs[0], tuple(inputs[1]))


@_rule("Identity")
def _identity(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    return inputs[0]


@_movement("Slice")
def _slice(inputs: list[Any], _: dict[str, Any]) -> Any:  # noqa: ANN401
    codes, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else range(len(starts))
    steps = inputs[4] if len(inputs) > 4 else [1] * len(starts)
    cut = [slice(None)] * codes.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[int(axis)] = slice(int(start), int(end), int(step))
    return codes[tuple(cut)]


@_movement("Pad")
def _pad(inputs: list[Any], attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    codes, amounts = inputs[:2]
    if attributes.get("mode", b"constant") != b"constant" or len(inputs) > 3:
        return UNKNOWN
    half = len(amounts) // 2
    widths = [(int(amounts[axis]), int(amounts[axis + half])) for axis in range(half)]
    return np.pad(codes, widths, constant_values=inputs[2] if len(inputs) > 2 else 0)


def _are_codes(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8


def open_reference(model: onnx.ModelProto) -> IntegerReference:
    """The reference for a model with one input and one output.

    Raises:
        UnsupportedModelError: it has several.
    """
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        inputs, outputs = len(model.graph.input), len(model.graph.output)
        msg = f"The model has {inputs} inputs and {outputs} outputs; one of each is needed."
        raise UnsupportedModelError(msg)
    return IntegerReference(model)
