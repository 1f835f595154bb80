"""One-branch quantized models for the tests of the integer reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dfq_plugin.validation.integer_reference import ReferenceRun, open_reference

Node = tuple[Any, ...]  # operator, inputs, output or outputs, attributes, name
IMAGES = np.array([[[[0.0, 1.0], [2.0, 3.0]]]], dtype=np.float32)
QUANTIZE: Node = ("QuantizeLinear", ["images", "half", "ten"], "codes")  # 0, 1, 2, 3 become 10, 12, 14, 16
DEQUANTIZE: Node = ("DequantizeLinear", ["codes", "half", "ten"], "values")
WEIGHT: Node = ("DequantizeLinear", ["w_codes", "w_step", "w_zero"], "w", {"axis": 0})
BIAS: Node = ("DequantizeLinear", ["b_codes", "b_step", "b_zero"], "b", {"axis": 0})
REQUANTIZE: Node = ("QuantizeLinear", ["result", "one", "ten"], "next")
CONSTANTS: dict[str, Any] = {
    "half": np.float32(0.5),
    "one": np.float32(1.0),
    "ten": np.uint8(10),
    "zero": np.uint8(0),
}


def build(nodes: list[Node], output: str, constants: Mapping[str, Any], inputs: int = 1) -> onnx.ModelProto:
    made = []
    for op_type, sources, results, *rest in nodes:
        outputs = [results] if isinstance(results, str) else results
        attributes = rest[0] if rest else {}
        made.append(helper.make_node(op_type, sources, outputs, name=f"node_{outputs[0]}", **attributes))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in {**CONSTANTS, **constants}.items()]
    names = ["images", "more"][:inputs]
    sources = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 2, 2]) for name in names]
    handed_out = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(made, "graph", sources, handed_out, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def run(
    *nodes: Node,
    output: str = "next",
    given: Mapping[str, Any] | None = None,
    images: Any = IMAGES,
    in_float: Collection[str] = (),
    **constants: Any,
) -> ReferenceRun:
    model = build([QUANTIZE, DEQUANTIZE, *nodes], output, constants)
    return open_reference(model, in_float=in_float).run(images, given or {})


def next_codes(*nodes: Node, **constants: Any) -> Any:
    """The codes named next, or None when the reference does not know them."""
    found = run(*nodes, **constants).codes.get("next")
    return None if found is None else found.tolist()


def weight(values: Any, step: float = 1.0) -> dict[str, Any]:
    """Constants of a weight named w, to be read through WEIGHT."""
    count = len(values)
    return {
        "w_codes": np.array(values, dtype=np.int8),
        "w_step": np.full(count, step, dtype=np.float32),
        "w_zero": np.zeros(count, dtype=np.int8),
    }


def bias(values: list[int], step: float = 0.5) -> dict[str, Any]:
    """Constants of a bias named b, to be read through BIAS."""
    return {
        "b_codes": np.array(values, dtype=np.int32),
        "b_step": np.full(len(values), step, dtype=np.float32),
        "b_zero": np.zeros(len(values), dtype=np.int32),
    }
