"""What each ONNX operator does to codes, grids and exact sums; the arithmetic itself stands in the files it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from dfq_plugin.validation import elementwise, pooling
from dfq_plugin.validation.arithmetic import Array, Codes, Grid, on_grid, quantize
from dfq_plugin.validation.products import Accumulator, convolve, multiply
from dfq_plugin.validation.resizing import crop_and_pad, resize_nearest


class Unknown:
    """The value of an operator that has no exact form here."""


UNKNOWN = Unknown()
STANDARD = ("", "ai.onnx")  # names of ONNX's own operator set
Value = Array | Codes | Accumulator | Unknown


@dataclass(frozen=True)
class Operator:
    """One node of a file, with what matters of its surroundings.

    Attributes:
        node: as in the file.
        attributes: by name.
        grid: of the codes that an integer kernel would hand out here; None when there is no such kernel.
        in_float: whether a product of codes runs in float all the same.
        has_bias_behind: whether an Add behind a matrix product holds its bias.
        is_static: whether every size of the graph's inputs is fixed.
    """

    node: onnx.NodeProto
    attributes: dict[str, Any]
    grid: Grid | None = None
    in_float: bool = False
    has_bias_behind: bool = False
    is_static: bool = False

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX attributes are of any type
        """The value of an attribute, or ``default``."""
        return self.attributes.get(name, default)


Rule = Callable[[Operator, list[Any]], Value | None]
Kernel = Callable[[Operator, list[Any], Grid], Array | None]
RULES: dict[str, Rule] = {}


def apply(operator: Operator, inputs: list[Any]) -> Value | None:
    """What an operator makes of its inputs; None when no rule is about them.

    Args:
        operator: with its surroundings.
        inputs: one value per input, none of them unknown; None for an input that is left out.
    """
    rule = RULES.get(operator.node.op_type) if operator.node.domain in STANDARD else None
    return None if rule is None else rule(operator, inputs)


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


def _kernel(function: Kernel) -> Rule:
    """A rule for an operator that becomes one integer kernel together with the QuantizeLinear behind it."""

    def on_codes(operator: Operator, inputs: list[Any]) -> Value | None:
        if operator.grid is None or not all(isinstance(value, Codes) and value.grid for value in inputs):
            return None
        codes = function(operator, inputs, operator.grid)
        return UNKNOWN if codes is None else on_grid(codes, operator.grid)

    return on_codes


@_rule("QuantizeLinear")
def _quantize(_: Operator, inputs: list[Any]) -> Value | None:
    values, step, zero = (*inputs, None)[:3]
    if zero is None or np.size(step) != 1 or zero.dtype != np.uint8 or isinstance(values, Accumulator):
        return None
    grid = Grid(np.float32(step.item()), int(zero.item()))
    if isinstance(values, Codes):
        return values.codes if values.grid == grid else quantize(values.values, grid)
    return quantize(values, grid)


@_rule("DequantizeLinear")
def _dequantize(operator: Operator, inputs: list[Any]) -> Value | None:
    codes, step, zero = (*inputs, None)[:3]
    if operator.attribute("block_size", 0) or not isinstance(codes, np.ndarray):
        return None
    zero = np.zeros_like(step, dtype=codes.dtype) if zero is None else zero
    if np.size(step) > 1:
        shape = [1] * codes.ndim
        shape[operator.attribute("axis", 1)] = -1
        step, zero = step.reshape(shape), zero.reshape(shape)
    return Codes(codes, step, zero)


@_rule("Relu")
def _relu(_: Operator, inputs: list[Any]) -> Value | None:
    values = inputs[0]
    is_positive = isinstance(values, Codes) and values.grid is not None and values.grid.zero == 0
    return values if is_positive else None


@_rule("Clip")
def _clip(_: Operator, inputs: list[Any]) -> Value | None:
    codes, low, high = (*inputs, None, None)[:3]
    return np.clip(codes, low, high) if isinstance(codes, np.ndarray) and codes.dtype == np.uint8 else None


@_rule("Conv")
def _conv(operator: Operator, inputs: list[Any]) -> Value | None:
    if operator.grid is None or operator.in_float or not _is_product(inputs, weight_axis=0):
        return UNKNOWN
    images, weight = inputs[:2]
    windows = _windows(operator, images.codes.shape[2:], weight.codes.shape[2:])
    total = convolve(
        images,
        weight,
        inputs[2] if len(inputs) > 2 else None,
        strides=windows.strides,
        pads=windows.pads,
        dilations=windows.dilations,
        group=operator.attribute("group", 1),
    )
    return on_grid(total.requantize(operator.grid), operator.grid)


@_rule("Gemm")
def _gemm(operator: Operator, inputs: list[Any]) -> Value | None:
    transposed = bool(operator.attribute("transB", 0))
    scaled = operator.attribute("alpha", 1.0) != 1.0 or operator.attribute("beta", 1.0) != 1.0
    if scaled or operator.attribute("transA", 0) or not _is_product(inputs, weight_axis=0 if transposed else 1):
        return UNKNOWN
    bias = inputs[2] if len(inputs) > 2 else None
    return _finish(operator, multiply(inputs[0], inputs[1], bias, transpose_right=transposed))


@_rule("MatMul")
def _matmul(operator: Operator, inputs: list[Any]) -> Value | None:
    if not _is_product(inputs, weight_axis=-1) or min(value.codes.ndim for value in inputs) < 2:
        return UNKNOWN
    total = multiply(inputs[0], inputs[1])
    if operator.has_bias_behind and not operator.in_float and total.total.ndim == 2:
        return total
    # With more axes, product and bias become one kernel where every size is fixed, and stay two where one is not.
    return UNKNOWN if operator.has_bias_behind and operator.is_static else _finish(operator, total)


def _finish(operator: Operator, total: Accumulator) -> Value:
    if operator.in_float:
        return UNKNOWN
    return total.to_float() if operator.grid is None else on_grid(total.requantize(operator.grid), operator.grid)


def _is_product(inputs: list[Any], *, weight_axis: int) -> bool:
    """Whether all operands are codes in the form that the integer products take; ``weight_axis`` may have own steps."""
    given = [value for value in inputs if value is not None]
    if not all(isinstance(value, Codes) for value in given) or given[0].grid is None:
        return False
    step = np.asarray(given[1].step)
    along_axis = step.size == 1 or step.shape[weight_axis] == step.size
    return along_axis and all(value.codes.dtype == np.int32 for value in given[2:])


@_rule("Add")
def _add(operator: Operator, inputs: list[Any]) -> Value | None:
    for total, bias in (inputs, inputs[::-1]):
        if isinstance(total, Accumulator):  # the product in front has seen that the other operand is its bias
            return _finish(operator, total.plus(bias))
    return _add_codes(operator, inputs)


@_kernel
def _add_codes(_: Operator, inputs: list[Any], grid: Grid) -> Array | None:
    return elementwise.add(inputs[0], inputs[1], grid)


@_rule("Mul")
@_kernel
def _mul(_: Operator, inputs: list[Any], grid: Grid) -> Array:
    return elementwise.multiply_elements(inputs[0], inputs[1], grid)


@_rule("Concat")
@_kernel
def _concat(operator: Operator, inputs: list[Any], grid: Grid) -> Array:
    return elementwise.concatenate(inputs, operator.attribute("axis"), grid)


@_rule("Sigmoid")
@_kernel
def _sigmoid(_: Operator, inputs: list[Any], grid: Grid) -> Array:
    return elementwise.look_up(inputs[0], elementwise.logistic, grid)


@_rule("LeakyRelu")
@_kernel
def _leaky_relu(operator: Operator, inputs: list[Any], grid: Grid) -> Array:
    return elementwise.look_up(inputs[0], elementwise.leaky(operator.attribute("alpha", 0.01)), grid)


@_rule("GlobalAveragePool")
@_kernel
def _global_pool(_: Operator, inputs: list[Any], grid: Grid) -> Array:
    return pooling.pool_globally(inputs[0], grid)


@_rule("AveragePool")
@_kernel
def _average_pool(operator: Operator, inputs: list[Any], grid: Grid) -> Array:
    windows = _windows(operator, inputs[0].codes.shape[2:], operator.attribute("kernel_shape"))
    count_padding = bool(operator.attribute("count_include_pad", 0))
    return pooling.average_pool(inputs[0], windows, grid, count_padding=count_padding)


@_rule("MaxPool")
def _max_pool(operator: Operator, inputs: list[Any]) -> Value | None:
    images = inputs[0]
    if len(operator.node.output) > 1:  # it also says where each came from
        return None
    codes = images.codes if isinstance(images, Codes) else images
    largest = pooling.max_pool(codes, _windows(operator, codes.shape[2:], operator.attribute("kernel_shape")))
    return images.moved(largest) if isinstance(images, Codes) else largest


@_rule("Resize")
def _resize(operator: Operator, inputs: list[Any]) -> Value | None:
    images, _, scales, sizes = (*inputs, None, None, None)[:4]
    if operator.attribute("mode", b"nearest") != b"nearest" or not isinstance(images, np.ndarray):
        return None
    return resize_nearest(images, scales, sizes, operator.attributes)


@_rule("Pad")
def _pad(operator: Operator, inputs: list[Any]) -> Value | None:
    values, amounts, fill, axes = (*inputs, None, None)[:4]
    constant = operator.attribute("mode", b"constant") == b"constant"
    if not constant or axes is not None or not isinstance(values, np.ndarray):
        return None
    return crop_and_pad(values, amounts, 0 if fill is None else fill)


def _windows(operator: Operator, sizes: tuple[int, ...], kernel: Any) -> pooling.Windows:  # noqa: ANN401
    """The windows of a convolution or pool over an image of these sizes."""
    half = len(sizes)
    strides = operator.attribute("strides", [1] * half)
    dilations = operator.attribute("dilations", [1] * half)
    pads = operator.attribute("pads", [0] * 2 * half)
    rule = operator.attribute("auto_pad", b"NOTSET")
    if rule in {b"SAME_UPPER", b"SAME_LOWER"}:
        pads = pooling.same_pads(sizes, kernel, strides, dilations, more_at_end=rule == b"SAME_UPPER")
    return pooling.Windows(kernel, strides, pads, dilations, bool(operator.attribute("ceil_mode", 0)))
