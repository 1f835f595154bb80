"""What stands around an operator in a file, as far as it decides which kernel onnxruntime takes.

An operator between DequantizeLinear and QuantizeLinear becomes one integer kernel when a single QuantizeLinear reads
it. In between may stand a Relu, where the zero point is 0, and then any number of operators that the QuantizeLinear is
moved in front of. Found by loading graphs of every operator with every follower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx

from dfq_plugin.validation.arithmetic import Array, Grid

PASSED = frozenset({"Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class Wiring:
    """Who reads what in a graph, and what is constant."""

    def __init__(self, graph: onnx.GraphProto, constants: Mapping[str, Array]) -> None:
        self._constants = constants
        self._outputs = {output.name for output in graph.output}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in set(node.input):
                self._readers[name].append(node)
        sizes = [dim for source in graph.input for dim in source.type.tensor_type.shape.dim]
        self.is_static = all(dim.HasField("dim_value") for dim in sizes)

    def grid_behind(self, name: str) -> Grid | None:
        """The grid on which an integer kernel that makes ``name`` would give its codes; None when there is no such."""
        reader = self._only_reader(name)
        rectified = reader is not None and reader.op_type == "Relu"
        if reader is not None and rectified:
            reader = self._only_reader(reader.output[0])
        while reader is not None and reader.op_type in PASSED:
            reader = self._only_reader(reader.output[0])
        grid = None if reader is None else self._grid_of(reader)
        return None if grid is None or (rectified and grid.zero != 0) else grid

    def is_quantized_directly(self, name: str) -> bool:
        """Whether a QuantizeLinear reads ``name``, perhaps through a Relu; a product is then float unless it fuses."""
        readers = self._readers[name]
        behind = [reader for node in readers if node.op_type == "Relu" for reader in self._readers[node.output[0]]]
        only_behind = behind if len(readers) == len(behind) == 1 else []
        return any(reader.op_type == "QuantizeLinear" for reader in [*readers, *only_behind])

    def has_bias_behind(self, name: str) -> bool:
        """Whether an Add alone reads a matrix product and gives it a bias of int32 codes."""
        reader = self._only_reader(name)
        if reader is None or reader.op_type != "Add":
            return False
        other = reader.input[1] if reader.input[0] == name else reader.input[0]
        maker = self._makers.get(other)
        codes = None if maker is None or maker.op_type != "DequantizeLinear" else self._constants.get(maker.input[0])
        return codes is not None and codes.dtype == np.int32 and codes.ndim == 1

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers[name]
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def _grid_of(self, node: onnx.NodeProto) -> Grid | None:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            return None
        step, zero = (self._constants.get(name) for name in node.input[1:3])
        if step is None or zero is None or step.size != 1 or zero.dtype != np.uint8:
            return None
        return Grid(np.float32(step.item()), int(zero.item()))
