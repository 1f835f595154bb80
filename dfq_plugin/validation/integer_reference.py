"""An independent run of an exported file: integer arithmetic in numpy and torch, without onnxruntime.

The graph is read operator by operator. A tensor behind DequantizeLinear stays codes with a grid. An operator that
onnxruntime runs as one integer kernel together with the QuantizeLinear behind it gives codes at once; one that
computes in float has an exact value only where IEEE 754 leaves no choice. Every other operator gives ``UNKNOWN``; codes
behind it are taken from the run that is checked, and are not counted as compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.validation.arithmetic import Array, Codes
from dfq_plugin.validation.fusion import Wiring
from dfq_plugin.validation.library import MOVEMENT, OneNodeModels
from dfq_plugin.validation.operators import UNKNOWN, Operator, Unknown, Value, apply
from dfq_plugin.validation.products import Accumulator


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
    """Runs one exported model in exact integer arithmetic.

    Args:
        model: external data may be left unread when ``folder`` says where it lies.
        folder: of the file.
        in_float: names of nodes that onnxruntime was seen to run in float; products among them are not computed here.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None, in_float: Collection[str] = ()) -> None:
        graph = model.graph
        base = "" if folder is None else str(folder)
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._constants: dict[str, Any] = {
            tensor.name: numpy_helper.to_array(tensor, base) for tensor in graph.initializer
        }
        self._library = OneNodeModels(model.opset_import)
        wiring = Wiring(graph, self._constants)
        names = set(in_float)
        self._operators = [_survey(node, wiring, (node.name or node.output[0]) in names) for node in graph.node]
        self._fold_constants()
        self._last_reader = {name: step for step, each in enumerate(self._operators) for name in each.node.input}

    def run(self, images: Array, given: Mapping[str, Array]) -> ReferenceRun:
        """Run ``images``, (N, C, H, W) float32.

        Args:
            images: the input.
            given: codes to continue with behind operators that have no exact form here.
        """
        codes, output = {}, None
        for name, array in self.steps(images, given):
            if array.dtype == np.uint8:
                codes[name] = array
            else:
                output = array
        return ReferenceRun(codes, output)

    def steps(self, images: Array, given: Mapping[str, Array], *, follow: bool = False) -> Iterator[tuple[str, Array]]:
        """Run ``images`` and hand out every tensor of codes as soon as it is known, and the float output last.

        Args:
            images: (N, C, H, W) float32.
            given: codes to continue with behind operators that have no exact form here.
            follow: continue with the given codes everywhere, so that one difference does not cause others.
        """
        values: dict[str, Value] = {self._input: images}
        for step, operator in enumerate(self._operators):
            results = self._evaluate(operator, [self._read(name, values) for name in operator.node.input])
            for name, result in zip(operator.node.output, results, strict=True):
                if isinstance(result, np.ndarray) and result.dtype == np.uint8:
                    yield name, result
                values[name] = given[name] if name in given and (follow or isinstance(result, Unknown)) else result
            for name in {*operator.node.input, *operator.node.output}:
                if self._last_reader.get(name, -1) <= step and name != self._output:
                    values.pop(name, None)  # nothing reads it any more
        final = values.get(self._output, UNKNOWN)
        if isinstance(final, Codes):
            final = final.values
        if isinstance(final, np.ndarray) and final.dtype != np.uint8:
            yield self._output, final

    def _read(self, name: str, values: Mapping[str, Value]) -> Any:  # noqa: ANN401 - a value, or None for no input
        return None if not name else self._constants[name] if name in self._constants else values[name]

    def _evaluate(self, operator: Operator, inputs: list[Any]) -> Sequence[Value]:
        """What a node makes of its inputs, one value per output."""
        node = operator.node
        unknown = [UNKNOWN] * len(node.output)
        if any(isinstance(value, Unknown) for value in inputs):
            return unknown
        result = apply(operator, inputs)
        if result is not None:
            return [result]
        if any(isinstance(value, Accumulator) for value in inputs):
            return unknown
        source = inputs[0] if inputs else None
        if isinstance(source, Codes) and source.grid is not None and node.op_type in MOVEMENT - {"Pad"}:
            moved = self._library.evaluate(node, [source.codes, *inputs[1:]])
            return unknown if moved is None else [source.moved(codes) for codes in moved]
        arrays = [value.values if isinstance(value, Codes) else value for value in inputs]
        return self._library.evaluate(node, arrays) or unknown

    def _fold_constants(self) -> None:
        """Evaluate what depends on no image once: unpacking weights can cost more than using them."""
        left = []
        for operator in self._operators:
            if all(not name or name in self._constants for name in operator.node.input):
                inputs = [self._read(name, {}) for name in operator.node.input]
                self._constants.update(zip(operator.node.output, self._evaluate(operator, inputs), strict=True))
            else:
                left.append(operator)
        self._operators = left
        needed = {name for operator in left for name in operator.node.input}
        self._constants = {name: value for name, value in self._constants.items() if name in needed | {self._output}}


def _survey(node: onnx.NodeProto, wiring: Wiring, in_float: bool) -> Operator:  # noqa: FBT001 - a fact, no switch
    """A node with what matters of its surroundings."""
    name = node.output[0]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    grid = None if in_float else wiring.grid_behind(name)
    float_product = in_float or (grid is None and wiring.is_quantized_directly(name))
    has_bias_behind = node.op_type == "MatMul" and wiring.has_bias_behind(name)
    return Operator(node, attributes, grid, float_product, has_bias_behind, wiring.is_static)


def open_reference(
    model: onnx.ModelProto, folder: Path | None = None, in_float: Collection[str] = ()
) -> IntegerReference:
    """The reference for a model with one input and one output.

    Args:
        model: external data may be left unread when ``folder`` says where it lies.
        folder: of the file.
        in_float: names of nodes that onnxruntime was seen to run in float.

    Raises:
        UnsupportedModelError: it has several.
    """
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        inputs, outputs = len(model.graph.input), len(model.graph.output)
        msg = f"The model has {inputs} inputs and {outputs} outputs; one of each is needed."
        raise UnsupportedModelError(msg)
    return IntegerReference(model, folder, in_float)
