"""The census: which operators onnxruntime really runs, in integers and in float.

A file full of QuantizeLinear nodes proves nothing: whether a layer runs on integer kernels is decided when the file is
loaded. So it is loaded at full optimisation and the resulting graph is counted.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.fusion import PASSED
from dfq_plugin.validation.reasons import DYNAMIC, Neighbours, reason_for
from dfq_plugin.validation.runtime import load_proto, open_session

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})  # those that have an integer kernel: ConvTranspose has none
INTEGER_PRODUCTS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})
INTEGER_KERNELS = INTEGER_PRODUCTS | frozenset(
    {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid"}
    | {"QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean", "QLinearWhere", "ConvInteger", "MatMulInteger"}
)
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
# Operators that only move values: they are neither proof of integer execution nor a loss of it.
MOVEMENT = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Identity", "Shape", "Gather"}
    | {"Expand", "ReorderInput", "ReorderOutput", "Constant", "ConstantOfShape", "Range", "Size"}
)
ACTIVATIONS = frozenset({"Clip", "Relu"})
INDEX_TYPES = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.BOOL})
CODE_TYPES = frozenset(
    {onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT4}
    | {onnx.TensorProto.UINT4, onnx.TensorProto.INT2, onnx.TensorProto.UINT2}
)
MAKE_INDEX = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin", "Equal", "Less", "Greater", "Not", "And", "Or"})
LISTED = 10  # layers that an error names
HIDES_PRODUCT = re.compile("Conv|Gemm|MatMul|Attention")
# What onnxruntime appends to the name of a node that it fuses or lays out anew.
SUFFIXES = re.compile(r"(/MatMulAddFusion|_nchwc|_token_\d+)+$")


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
        products_integer: how many of those run on integer kernels.
        by_type: every operator type with its count.
    """

    integer: int
    float: int
    float_nodes: tuple[FloatNode, ...]
    products_asked: int
    products_integer: int
    by_type: dict[str, int] = field(default_factory=dict)

    @property
    def is_weight_only(self) -> bool:
        """Whether weights are held in integers but no activation is quantized, so that there are no codes to prove."""
        return "QuantizeLinear" not in self.by_type and bool({"DequantizeLinear", "MatMulNBits"} & set(self.by_type))


def take_census(path: str | Path) -> Census:
    """Load a file at full optimisation and count what is run.

    Raises:
        InputError: it is no model, or keeps its weights anywhere but beside it.
        ValidationError: onnxruntime cannot load it.
    """
    model = load_proto(path)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(Path(path), optimized_path=optimized)
        return _count(load_proto(optimized), Names(model))


def require_integer(census: Census, path: str | Path) -> None:
    """Raise when a layer that was asked to be quantized runs in float, or one that was not is quantized all the same.

    Raises:
        ValidationError: naming each such layer and the reason.
    """
    missing = census.products_asked - census.products_integer
    if missing > 0:
        products = [node for node in census.float_nodes if HIDES_PRODUCT.search(node.op_type)] or census.float_nodes
        listed = "; ".join(f"{node.op_type} {node.name}: {node.reason}" for node in products[:LISTED])
        msg = (
            f"{path}: {missing} of {census.products_asked} quantized layers run in float on onnxruntime. {listed}. "
            "Set validate.require_integer to false to accept this."
        )
        raise ValidationError(msg)
    dynamic = [f"{node.op_type} {node.name}" for node in census.float_nodes if node.reason == DYNAMIC]
    if dynamic:
        msg = f"{path}: the activations of {', '.join(dynamic)} are quantized anew in every run; nobody asked for it."
        raise ValidationError(msg)


class Names:
    """The nodes of a file, found again in the graph that onnxruntime makes of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = {_name(node): node for node in model.graph.node}
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self.types = {name: node.op_type for name, node in self._nodes.items()}
        self.asked = {name for name, node in self._nodes.items() if node.op_type in PRODUCTS and self._is_asked(node)}

    def of(self, node: onnx.NodeProto) -> str:
        """The name that a node of the optimised graph has in the file, as far as it can be told; else its own."""
        own, name = _name(node), SUFFIXES.sub("", _name(node))
        source = self._nodes.get(own) or self._nodes.get(name) or self._makers.get(name)
        # A node in a blocked layout is named after its output, which a Relu may make.
        while source is not None and source.op_type in ACTIVATIONS and node.op_type not in ACTIVATIONS:
            source = self._makers.get(source.input[0])
        if source is not None:
            return _name(source)
        return own if name else node.op_type

    def _is_asked(self, product: onnx.NodeProto) -> bool:
        """Whether both operands come out of DequantizeLinear, however they are moved on the way."""
        for name in product.input[:2]:
            maker = self._makers.get(name)
            while maker is not None and maker.op_type in PASSED:
                maker = self._makers.get(maker.input[0])
            if maker is None or maker.op_type != "DequantizeLinear":
                return False
        return True


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def _count(model: onnx.ModelProto, names: Names) -> Census:
    kinds, neighbours = _kinds(model.graph), Neighbours(model.graph)
    float_nodes, integer, running = [], 0, set()
    for node in model.graph.node:
        if node.op_type in INTEGER_KERNELS:
            integer += 1
            running.add(names.of(node))
        elif node.op_type not in CONVERSIONS | MOVEMENT:
            kind = kinds.get(_data(node), "float") if node.input else "index"
            integer += kind == "codes"
            if kind == "float":
                name = names.of(node)
                float_nodes.append(FloatNode(name, node.op_type, reason_for(node, neighbours, names.types.get(name))))
    in_float = {node.name for node in float_nodes}
    if not any(node.name not in names.types and HIDES_PRODUCT.search(node.op_type) for node in float_nodes):
        running |= names.asked - in_float  # a product that is nowhere was merged with one that is its equal
    by_type = dict(Counter(node.op_type for node in model.graph.node))
    asked = names.asked
    return Census(integer, len(float_nodes), tuple(float_nodes), len(asked), len(asked & running), by_type)


def _kinds(graph: onnx.GraphProto) -> dict[str, str]:
    """What each tensor of the optimised graph holds: "codes", "index" (shapes and conditions), or "float"."""
    kinds = {tensor.name: _kind(tensor.data_type) for tensor in graph.initializer}
    kinds |= {source.name: _kind(source.type.tensor_type.elem_type) for source in graph.input}
    for node in graph.node:
        attributes = {item.name: item for item in node.attribute}
        if node.op_type == "QuantizeLinear" or (node.op_type in INTEGER_KERNELS and not _emits_float(node)):
            kind = "codes"
        elif node.op_type == "DequantizeLinear" or node.op_type in INTEGER_KERNELS:
            kind = "float"
        elif node.op_type == "Cast":
            kind = _kind(attributes["to"].i)
        elif node.op_type in MAKE_INDEX:
            kind = "index"
        elif node.op_type in {"Constant", "ConstantOfShape"}:
            kind = _kind(attributes["value"].t.data_type) if "value" in attributes else "float"
        else:
            kind = kinds.get(_data(node), "float")
        kinds |= dict.fromkeys(node.output, kind)
    return kinds


def _data(node: onnx.NodeProto) -> str:
    """The input whose entries an operator works on."""
    return node.input[1 if node.op_type == "Where" else 0] if node.input else ""


def _kind(data_type: int) -> str:
    return "codes" if data_type in CODE_TYPES else "index" if data_type in INDEX_TYPES else "float"


def _emits_float(node: onnx.NodeProto) -> bool:
    """A matrix product without an output scale hands out its accumulator in float."""
    if node.op_type == "QGemm":
        return len(node.input) < 8 or not node.input[7]
    return node.op_type == "MatMulIntegerToFloat"
