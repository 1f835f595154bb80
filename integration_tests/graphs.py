"""Small quantized ONNX graphs, written node by node, and graphs in files, looked into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Collects nodes and constants; every method gives the name of the tensor it makes."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape  # of one image
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Any, dtype: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype=dtype), name))
        return name

    def node(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def nodes_out(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """An operator with several outputs."""
        outputs = [f"{op_type.lower()}_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def quantize(self, source: str, step: float, zero: int, low: int = 0, top: int = 255) -> str:
        """Codes, limited to ``low``..``top`` in the form that the exporter writes."""
        inputs = source, self.constant(step, np.float32), self.constant(zero, np.uint8)
        codes = self.node("QuantizeLinear", *inputs)
        if low > 0 or top < 255:
            codes = self.node("Clip", codes, self.constant(low, np.uint8), self.constant(top, np.uint8))
        return codes

    def dequantize(self, source: str, step: float, zero: int) -> str:
        return self.node("DequantizeLinear", source, self.constant(step, np.float32), self.constant(zero, np.uint8))

    def requantize(self, source: str, step: float, zero: int) -> str:
        """To codes and back."""
        return self.dequantize(self.quantize(source, step, zero), step, zero)

    def weight(self, codes: Any, steps: Any, axis: int = 0) -> str:
        zeros = np.zeros(np.shape(steps), dtype=np.int8)
        inputs = self.constant(codes, np.int8), self.constant(steps, np.float32), self.constant(zeros, np.int8)
        return self.node("DequantizeLinear", *inputs, axis=axis)

    def bias(self, codes: Any, input_step: float, steps: Any) -> str:
        steps = np.float32(input_step) * np.asarray(steps, dtype=np.float32)
        zeros = np.zeros(np.shape(steps), dtype=np.int32)
        inputs = self.constant(codes, np.int32), self.constant(steps, np.float32), self.constant(zeros, np.int32)
        return self.node("DequantizeLinear", *inputs, axis=0)

    def save(self, path: Path, output: str, *, opset: int = 21, batch: int | None = None) -> Path:
        """Write the file; ``output`` is the tensor that it hands out, float; without a batch, its size is free."""
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch or "batch", *self.shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        version = 10 if opset < 25 else 13
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version), path)
        return path


class Graph:
    """A file with its constants and who makes what."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.makers = {output: node for node in self.nodes for output in node.output}

    def of_type(self, *op_types: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type in op_types]

    def maker(self, name: str) -> onnx.NodeProto | None:
        return self.makers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.tensors[name])

    def activations(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.of_type("DequantizeLinear") if node.input[0] not in self.tensors)

    def dequantizer(self, product: onnx.NodeProto, port: int) -> onnx.NodeProto:
        node = self.maker(product.input[port])
        assert node is not None
        assert node.op_type == "DequantizeLinear"
        return node
