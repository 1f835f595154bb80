"""The operators of random graphs, each in the form in which the exporter writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from integration_tests.random_graphs import INT64, Operator, RandomGraph, Tensor

OPERATORS: list[Operator] = []


def _operator(name: str, fits: Callable[[Tensor], bool] = lambda _: True) -> Callable[[Any], Any]:
    def register(make: Callable[[RandomGraph, Tensor], list[Tensor]]) -> Any:
        OPERATORS.append(Operator(name, fits, make))
        return make

    return register


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.shape) == 3


def _is_sequence(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2


# Products


@_operator("Conv", lambda tensor: len(tensor.shape) in {2, 3})
def conv(net: RandomGraph, source: Tensor) -> list[Tensor]:
    channels, *sizes = source.shape
    group = net.choose([count for count in range(1, channels + 1) if channels % count == 0])
    out = group * net.integer(1, 3)
    kernel = [net.integer(1, min(3, size)) for size in sizes]
    attributes: dict[str, Any] = {"group": group, "strides": [net.integer(1, 2) for _ in sizes]}
    reach = list(kernel)
    if net.chance(4):
        attributes["auto_pad"] = net.choose(["SAME_UPPER", "SAME_LOWER"])
        counts = [-(-size // stride) for size, stride in zip(sizes, attributes["strides"], strict=True)]
    else:
        attributes["pads"] = [net.integer(0, 2) for _ in sizes * 2] if net.chance(2) else [0] * 2 * len(sizes)
        fits = all((width - 1) * 2 < size for width, size in zip(kernel, sizes, strict=True))
        dilation = 2 if fits and net.chance(3) else 1
        attributes["dilations"] = [dilation] * len(sizes)
        reach = [(width - 1) * dilation + 1 for width in kernel]
        around = [sum(attributes["pads"][axis :: len(sizes)]) for axis in range(len(sizes))]
        counts = [
            (size + pad - width) // stride + 1
            for size, pad, width, stride in zip(sizes, around, reach, attributes["strides"], strict=True)
        ]
    weight, steps = net.weight_codes((out, channels // group, *kernel)), net.weight_steps(out)
    inputs = [net.dequantize(source), net.graph.weight(weight, steps)]
    if net.chance(2):
        inputs.append(net.graph.bias(net.integers(out, 2000), source.step, steps))
    result = net.graph.node("Conv", *inputs, **attributes)
    return [net.quantize(result, (out, *counts), *_size_of_sum(source, weight, steps))]


def _size_of_sum(source: Tensor, weight: Any, steps: Any) -> tuple[float, float]:
    """How large sums of products get, and what one unit of them is worth."""
    count = math.prod(weight.shape[1:])
    spread = source.spread * float(np.abs(weight).mean() * steps.mean()) * math.sqrt(count)
    return spread, source.step * float(steps[0])


@_operator("Gemm")
def gemm(net: RandomGraph, source: Tensor) -> list[Tensor]:
    count = math.prod(source.shape)
    source = replace(source, name=net.reshape(source, [0, count]), shape=(count,))
    out = net.integer(1, 9)
    weight, steps = net.weight_codes((out, *source.shape)), net.weight_steps(out)
    transposed = net.chance(2)
    stored = net.graph.weight(weight, steps) if transposed else net.graph.weight(weight.T, steps, axis=1)
    bias = [net.graph.bias(net.integers(out, 2000), source.step, steps)] if net.chance(2) else []
    result = net.graph.node("Gemm", net.dequantize(source), stored, *bias, transB=int(transposed))
    return [net.quantize(result, (out,), *_size_of_sum(source, weight, steps))]


@_operator("MatMul")
def matmul(net: RandomGraph, source: Tensor) -> list[Tensor]:
    out = net.integer(1, 9)
    weight, steps = net.weight_codes((out, source.shape[-1])), net.weight_steps(out)
    result = net.graph.node("MatMul", net.dequantize(source), net.graph.weight(weight.T, steps, axis=1))
    if net.chance(2):
        operands = [result, net.graph.bias(net.integers(out, 2000), source.step, steps)]
        result = net.graph.node("Add", *(operands if net.chance(2) else reversed(operands)))
    return [net.quantize(result, (*source.shape[:-1], out), *_size_of_sum(source, weight, steps))]


@_operator("MatMul of activations", lambda tensor: len(tensor.shape) >= 2)
def matmul_of_activations(net: RandomGraph, source: Tensor) -> list[Tensor]:
    *batch, rows, columns = source.shape
    rank = len(source.shape) + 1
    order = [*range(rank - 2), rank - 1, rank - 2]
    swapped = net.graph.node("Transpose", source.name, perm=order)
    other = replace(source, name=swapped, shape=(*batch, columns, rows))
    left = net.dequantize(source)
    if batch and net.chance(3):  # one matrix of an image for all of them
        zero = net.graph.constant([0], INT64)
        other = replace(other, name=net.graph.node("Gather", swapped, zero, axis=1), shape=(1, *other.shape[1:]))
    result = net.graph.node("MatMul", left, net.dequantize(other))
    spread = source.spread**2 * math.sqrt(columns)
    return [net.quantize(result, (*batch, rows, rows), spread, source.step**2)]


# Elementwise operators


def _partner(net: RandomGraph, source: Tensor) -> Tensor:
    """Another operand, of the same shape or one that broadcasts."""
    same = [tensor for tensor in net.tensors if tensor.shape == source.shape]
    kind = net.integer(0, 4)
    if kind == 0:
        shape = tuple(size if net.chance(2) else 1 for size in source.shape)
        return net.constant(shape[net.integer(0, len(shape)) :])
    if kind == 1 and _is_map(source):
        pooled = net.graph.node("GlobalAveragePool", net.dequantize(source))
        return net.quantize(pooled, (source.shape[0], 1, 1), source.spread, source.step / math.prod(source.shape[1:]))
    if kind == 2 and source.shape[0] > 1:
        first = net.graph.node("Gather", source.name, net.graph.constant([0], INT64), axis=1)
        return replace(source, name=first, shape=(1, *source.shape[1:]))
    return net.choose(same)


@_operator("Add")
def add(net: RandomGraph, source: Tensor) -> list[Tensor]:
    other = _partner(net, source)
    operands = [source, other] if net.chance(2) else [other, source]
    net.may_be_ambiguous |= operands[0].shape != source.shape or math.prod(source.shape) == 1
    result = net.graph.node("Add", *map(net.dequantize, operands))
    return [net.quantize(result, source.shape, source.spread + other.spread, source.step)]


@_operator("Mul")
def mul(net: RandomGraph, source: Tensor) -> list[Tensor]:
    other = _partner(net, source)
    operands = [source, other] if net.chance(2) else [other, source]
    result = net.graph.node("Mul", *map(net.dequantize, operands))
    return [net.quantize(result, source.shape, source.spread * other.spread, source.step * other.step)]


@_operator("QLinearConcat")
def concatenate(net: RandomGraph, source: Tensor) -> list[Tensor]:
    axis = net.integer(0, len(source.shape) - 1)
    same_rank = [each for each in net.tensors if len(each.shape) == len(source.shape)]
    others = [each for each in same_rank if _without(each.shape, axis) == _without(source.shape, axis)]
    parts = [source, *(net.choose(others) for _ in range(net.integer(1, 2)))]
    result = net.graph.node("Concat", *map(net.dequantize, parts), axis=axis + 1)
    shape = (*source.shape[:axis], sum(part.shape[axis] for part in parts), *source.shape[axis + 1 :])
    return [net.quantize(result, shape, max(part.spread for part in parts), source.step)]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], -1, *shape[axis + 1 :])


@_operator("Sigmoid")
def sigmoid(net: RandomGraph, source: Tensor) -> list[Tensor]:
    result = net.graph.node("Sigmoid", net.dequantize(source))
    gate = net.quantize(result, source.shape, 0.5)
    if net.chance(2):
        return [gate]
    product = net.graph.node("Mul", net.dequantize(source), net.dequantize(gate))
    return [net.quantize(product, source.shape, source.spread, source.step * gate.step)]


@_operator("LeakyRelu")
def leaky_relu(net: RandomGraph, source: Tensor) -> list[Tensor]:
    result = net.graph.node("LeakyRelu", net.dequantize(source), alpha=net.choose([0.01, 0.1, 0.25]))
    return [net.quantize(result, source.shape, source.spread, source.step)]


# Pools


def _windows(net: RandomGraph, source: Tensor, *, dilated: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
    sizes = source.shape[1:]
    kernel = [net.integer(1, min(3, size)) for size in sizes]
    if source.is_padded:  # onnxruntime moves a Pad into the pool behind it, and then refuses pads as wide as the kernel
        kernel = [3] * len(sizes)
    wide = dilated and all((width - 1) * 2 < size for width, size in zip(kernel, sizes, strict=True)) and net.chance(3)
    dilation = 2 if wide else 1
    strides = [net.integer(1, 3) for _ in sizes]
    pads = [0 if source.is_padded else net.integer(0, width // 2) for width in kernel * 2]
    rooms = [
        size + pads[axis] + pads[axis + len(sizes)] - (kernel[axis] - 1) * dilation - 1
        for axis, size in enumerate(sizes)
    ]
    # A window that would start behind the image is dropped, but ONNX's shape inference expects it before opset 22.
    inside = all(
        -(-room // stride) * stride < size + pads[axis]
        for axis, (room, stride, size) in enumerate(zip(rooms, strides, sizes, strict=True))
    )
    ceil = inside and net.chance(2)
    counts = [(-(-room // stride) if ceil else room // stride) + 1 for room, stride in zip(rooms, strides, strict=True)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    if dilated:
        attributes["dilations"] = [dilation] * len(sizes)
    return attributes, (source.shape[0], *counts)


def _can_be_pooled(tensor: Tensor) -> bool:
    return len(tensor.shape) in {2, 3} and (not tensor.is_padded or min(tensor.shape[1:]) >= 3)


@_operator("MaxPool", _can_be_pooled)
def max_pool(net: RandomGraph, source: Tensor) -> list[Tensor]:
    attributes, shape = _windows(net, source, dilated=True)
    return [replace(source, name=net.graph.node("MaxPool", source.name, **attributes), shape=shape)]


@_operator("AveragePool", _can_be_pooled)
def average_pool(net: RandomGraph, source: Tensor) -> list[Tensor]:
    attributes, shape = _windows(net, source, dilated=False)
    # Padding is never counted where a window may stick out: onnxruntime would count what lies beyond it too.
    attributes["count_include_pad"] = int(not attributes["ceil_mode"] and net.chance(2))
    result = net.graph.node("AveragePool", net.dequantize(source), **attributes)
    return [net.quantize(result, shape, source.spread, source.step / math.prod(attributes["kernel_shape"]))]


@_operator("GlobalAveragePool", lambda tensor: len(tensor.shape) in {2, 3})
def global_pool(net: RandomGraph, source: Tensor) -> list[Tensor]:
    result = net.graph.node("GlobalAveragePool", net.dequantize(source))
    shape = (source.shape[0], *[1] * (len(source.shape) - 1))
    return [net.quantize(result, shape, source.spread, source.step / math.prod(source.shape[1:]))]


# Float islands


@_operator("float island")
def island(net: RandomGraph, source: Tensor) -> list[Tensor]:
    op_type = net.choose(["HardSwish", "HardSigmoid", "Exp", "Tanh", "Gelu", "Softmax"])
    value = net.dequantize(source)
    if op_type == "Softmax":  # an integer kernel of its own rounds so coarsely that the exporter keeps codes from it
        value = net.graph.node("Exp", value)
        net.float_types.add("Exp")
    net.float_types.add(op_type)
    return [net.quantize(net.graph.node(op_type, value), source.shape, 1.0)]
