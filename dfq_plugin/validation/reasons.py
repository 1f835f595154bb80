"""Why an operator runs in float, in words for someone who wants to change it.

Read from the graph that onnxruntime really runs: an operator that has an integer kernel runs in float when one of its
inputs or its output is float there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import onnx

WEIGHT_ONLY = "weight-only: its weight is stored in integers, its activations are float"
DYNAMIC = "its activations are quantized anew in every run, which nobody asked for"
ODD_FORM = "its steps and zero points are not in a form that an integer kernel takes"
MANY_READERS = "its output has several readers; an integer kernel needs a single QuantizeLinear behind it"
RELU_ABOVE_ZERO = "a Relu stands between it and a zero point that is not 0"

# How many inputs of an operator must be codes for its integer kernel; None: all.
INTEGER_FORMS: dict[str, int | None] = {
    "Conv": 2,
    "Gemm": 3,
    "MatMul": 2,
    "Add": 2,
    "Mul": 2,
    "Concat": None,
    "AveragePool": 1,
    "GlobalAveragePool": 1,
    "LeakyRelu": 1,
    "Sigmoid": 1,
}
MOVES_CODES = frozenset({"MaxPool", "Pad", "DepthToSpace", "SpaceToDepth", "Tile"})
DYNAMIC_TYPES = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"})
FUNCTIONS = frozenset({"Celu", "Elu", "Gelu", "HardSwish", "Mish", "Softplus", "Swish"})  # may be written as several
INLINED = re.compile(r"_inlfunc_([A-Za-z]+)_")  # how onnxruntime names what happens inside such an operator
EXACT_WEIGHT_ONLY = (0, 1)  # accuracy levels of MatMulNBits at which activations stay float32


class Neighbours:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in set(node.input):
                self.readers[name].append(node)
        self.constants = {tensor.name for tensor in graph.initializer}
        self.outputs = {output.name for output in graph.output}

    def origin(self, name: str) -> str:
        """Where a value comes from, in words."""
        maker = self.makers.get(name)
        if maker is not None:
            return f"{maker.op_type} {maker.name}".rstrip()
        return "a constant" if name in self.constants else "the network's input"


def plain_type(node: onnx.NodeProto) -> str:
    """The operator in a file that a fused or laid-out one stands for."""
    return node.op_type.removeprefix("Nhwc").removeprefix("Fused")


def reason_for(node: onnx.NodeProto, neighbours: Neighbours, written: str | None = None) -> str:
    """Why a node of the optimised graph runs in float.

    Args:
        node: of the optimised graph.
        neighbours: in that graph.
        written: its operator type in the file, where it is there; onnxruntime writes some operators as several.
    """
    kind = plain_type(node)
    function = INLINED.match(node.output[0])
    whole = function[1] if function else written
    if whole in FUNCTIONS:
        return f"onnxruntime has no integer kernel for {whole}"
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if kind == "MatMulNBits" and attributes.get("accuracy_level", 0) in EXACT_WEIGHT_ONLY:
        return WEIGHT_ONLY
    if kind == "MatMulNBits" or kind in DYNAMIC_TYPES:
        return DYNAMIC
    if kind in INTEGER_FORMS:
        return next(_obstacles(node, kind, neighbours))
    mode = attributes.get("mode", b"nearest").decode() if kind == "Resize" else ""
    if kind in MOVES_CODES or mode == "nearest":
        return f"its input comes in float from {neighbours.origin(node.input[0])}"
    return f"onnxruntime has no integer kernel for {mode} {kind}".replace("  ", " ")


def _obstacles(node: onnx.NodeProto, kind: str, neighbours: Neighbours) -> Iterator[str]:
    """What keeps an operator from its integer kernel, the likeliest first."""
    if any(item.name in {"alpha", "beta"} and item.f != 1 for item in node.attribute if kind == "Gemm"):
        yield "its alpha or beta is not 1"
    for position, name in enumerate(node.input[: INTEGER_FORMS[kind]]):
        maker = neighbours.makers.get(name)
        if name and (maker is None or maker.op_type != "DequantizeLinear"):
            yield f"its {_ordinal(kind, position)} comes in float from {neighbours.origin(name)}"
    output = node.output[0]
    readers = neighbours.readers[output]
    if output in neighbours.outputs:
        yield "its output is handed out in float as the network's output"
    elif len(readers) > 1:
        yield MANY_READERS
    elif readers and readers[0].op_type == "Relu":
        yield RELU_ABOVE_ZERO
    elif readers and readers[0].op_type != "QuantizeLinear":
        yield f"its output is not quantized: {readers[0].op_type} {readers[0].name} reads it in float"
    elif any(item.name == "activation" for item in node.attribute):
        yield RELU_ABOVE_ZERO
    yield ODD_FORM


def _ordinal(kind: str, position: int) -> str:
    if kind in {"Conv", "Gemm"}:
        return ("input", "weight", "bias")[position]
    return "input" if INTEGER_FORMS[kind] == 1 else f"input {position + 1}"
