"""Small tools for changing an ONNX graph in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.markers import DOMAIN, MARKER


class Surgeon:
    """Adds nodes and constants to one graph, keeping names unique and shapes known."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._shared: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}

    def unique(self, name: str) -> str:
        """``name``, or ``name_2``, ``name_3``, ... when it is taken."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate

    def constant(self, name: str, array: npt.NDArray[Any], dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer holding ``array``; equal small arrays are stored once."""
        key = (str(dtype or array.dtype), array.tobytes(), array.shape)
        if array.size <= 64 and key in self._shared:
            return self._shared[key]
        tensor = ir.tensor(array, dtype=dtype, name=self.unique(name))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        self._shared[key] = value
        return value

    def insert(
        self,
        where: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        after: bool = False,
    ) -> ir.Value:
        """Insert a standard operator before (or after) ``where``; returns its output."""
        output = ir.Value(name=self.unique(name), shape=shape, type=ir.TensorType(dtype))
        node = ir.node(op_type, inputs, dict(attributes or {}), outputs=[output], name=output.name)
        if after:
            self.graph.insert_after(where, node)
        else:
            self.graph.insert_before(where, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everything that read ``old`` read ``new``, the graph's outputs included."""
        name = old.name
        was_output = old.is_graph_output()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if was_output:
            old.name = self.unique(f"{name}_float")
            new.name = name

    def remove_dead(self) -> None:
        """Drop nodes and initializers that nothing reads any more."""
        for node in reversed(list(self.graph)):
            if all(not output.uses() and not output.is_graph_output() for output in node.outputs):
                self.graph.remove(node, safe=True)
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            del self.graph.initializers[name]


def array_of(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The constant a value holds, or None when it is computed at run time."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_marker(node: ir.Node | None) -> bool:
    """Whether a node stands for a quantizer."""
    return node is not None and node.domain == DOMAIN and node.op_type == MARKER


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value."""
    return [use.node for use in value.uses()]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX attributes are of any type
    """The value of an attribute, or ``default`` when the node does not carry it."""
    return node.attributes[name].value if name in node.attributes else default


def scalar(value: float | int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A 0-d array."""
    return np.array(value, dtype=dtype)
