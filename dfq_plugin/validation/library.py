"""Operators that need no arithmetic of ours: ONNX's own reference implementation evaluates them, one at a time.

Integers, and values that are only moved, come out alike wherever they are computed. So do the float32 operators that
IEEE 754 defines to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from dfq_plugin.validation.arithmetic import Array

# Operators that hand on entries of their first input unchanged.
MOVEMENT = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"}
    | {"Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
# Operators that give the same float32 on every machine.
EXACT_IN_FLOAT = MOVEMENT | frozenset(
    {"Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less"}
    | {"LessOrEqual", "Max", "Min", "Mul", "Neg", "Relu", "Shape", "Size", "Sub", "Where"}
)
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})


class OneNodeModels:
    """Evaluates single nodes of a model; each is prepared once."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
        self._opsets = {opset.domain: opset.version for opset in opsets}
        self._prepared: dict[str, ReferenceEvaluator] = {}

    def evaluate(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array] | None:
        """What a node makes of its inputs; None when the library cannot say.

        Args:
            node: an operator without subgraphs.
            inputs: one array per input, None for an input that is left out.
        """
        if not is_exact(node, inputs):
            return None
        given = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
        try:
            return [np.asarray(result) for result in self._prepare(node).run(None, given)]
        except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError):
            return None

    def _prepare(self, node: onnx.NodeProto) -> ReferenceEvaluator:
        key = " ".join(node.output)
        if key not in self._prepared:
            self._prepared[key] = ReferenceEvaluator(node, opsets=self._opsets)
        return self._prepared[key]


def is_exact(node: onnx.NodeProto, inputs: Sequence[Any]) -> bool:
    """Whether a node has one right result: it computes in integers, or is exact in float."""
    has_subgraph = any(attribute.HasField("g") for attribute in node.attribute)
    if node.domain not in {"", "ai.onnx"} or node.op_type in RANDOM or has_subgraph:
        return False
    floats = [array for array in inputs if array is not None and np.issubdtype(array.dtype, np.floating)]
    return not floats or node.op_type in EXACT_IN_FLOAT
