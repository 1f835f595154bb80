"""The census: which operators onnxruntime really runs, in integers and in float.

A file full of QuantizeLinear nodes proves nothing: whether a layer runs on integer kernels is decided when the file is
loaded. So it is loaded at full optimisation and the resulting graph is counted.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.runtime import load_proto, open_session

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
INTEGER_KERNELS = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul", "QLinearConcat"}
    | {"QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"}
    | {"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearReduceMean", "QLinearWhere"}
)
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
# Operators that only move values: they are neither proof of integer execution nor a loss of it.
MOVEMENT = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Identity", "Shape", "Gather"}
    | {"Expand", "ReorderInput", "ReorderOutput", "Constant"}
)


@dataclass(frozen=True)
class FloatNode:
    """One operator that runs in float, and why."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Census:
    """What onnxruntime runs.

    Attributes:
        integer: operators on integer kernels.
        float: operators that compute in float.
        float_nodes: those, one by one.
        products_asked: convolutions and matrix products whose two operands are quantized in the file.
        products_integer: convolutions and matrix products on integer kernels.
        by_type: every operator type with its count.
    """

    integer: int
    float: int
    float_nodes: tuple[FloatNode, ...]
    products_asked: int
    products_integer: int
    by_type: dict[str, int] = field(default_factory=dict)


def take_census(path: str | Path) -> Census:
    """Load a file at full optimisation and count what is run.

    Raises:
        ValidationError: onnxruntime cannot load it.
    """
    asked = _asked_products(load_proto(path))
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(Path(path), optimized_path=optimized)
        return _count(load_proto(optimized), asked)


def require_integer(census: Census, path: str | Path) -> None:
    """Raise when a layer that was asked to be quantized runs in float.

    Raises:
        ValidationError: naming each such layer and the reason.
    """
    missing = census.products_asked - census.products_integer
    if missing > 0:
        listed = "; ".join(f"{node.op_type} {node.name}: {node.reason}" for node in census.float_nodes)
        msg = (
            f"{path}: {missing} of {census.products_asked} quantized layers run in float on onnxruntime. {listed}. "
            "Set validate.require_integer to false to accept this."
        )
        raise ValidationError(msg)


def _asked_products(model: onnx.ModelProto) -> set[str]:
    """Names of the products whose two operands come out of DequantizeLinear."""
    producers = {output: node for node in model.graph.node for output in node.output}

    def quantized(name: str) -> bool:
        return name in producers and producers[name].op_type == "DequantizeLinear"

    return {node.name for node in model.graph.node if node.op_type in PRODUCTS and all(map(quantized, node.input[:2]))}


def _count(model: onnx.ModelProto, asked: set[str]) -> Census:
    integer_values = _integer_values(model)
    float_nodes, integer = [], 0
    for node in model.graph.node:
        if node.op_type in INTEGER_KERNELS:
            integer += 1
        elif node.op_type in CONVERSIONS | MOVEMENT:
            continue
        elif node.input and node.input[0] in integer_values:
            integer += 1
        else:
            float_nodes.append(FloatNode(node.name, node.op_type, _reason(node, asked)))
    by_type = dict(Counter(node.op_type for node in model.graph.node))
    products = sum(by_type.get(kind, 0) for kind in ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"))
    return Census(integer, len(float_nodes), tuple(float_nodes), len(asked), products, by_type)


def _integer_values(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors that hold codes in the optimised graph."""
    integer_types = {onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32}
    names = {tensor.name for tensor in model.graph.initializer if tensor.data_type in integer_types}
    for node in model.graph.node:
        keeps = node.op_type not in CONVERSIONS and bool(node.input) and node.input[0] in names
        makes = node.op_type == "QuantizeLinear" or (node.op_type in INTEGER_KERNELS and not _emits_float(node))
        if makes or (keeps and node.op_type not in INTEGER_KERNELS):
            names.update(node.output)
    return names


def _emits_float(node: onnx.NodeProto) -> bool:
    """A matrix product without an output scale hands out its accumulator in float."""
    if node.op_type == "QGemm":
        return len(node.input) < 8 or not node.input[7]
    return node.op_type == "MatMulIntegerToFloat"


def _reason(node: onnx.NodeProto, asked: set[str]) -> str:
    if node.op_type.removeprefix("Fused") in PRODUCTS:
        if node.name in asked:
            return "its output is not quantized in a form that an integer kernel takes"
        return "it was not asked to be quantized, or one of its operands is not"
    return "onnxruntime has no integer kernel for it here"
