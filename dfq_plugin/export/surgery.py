"""Small tools for changing an ONNX graph in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

DOMAIN = "dfq"
MARKER = "QuantizeDequantize"


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

    def constant(
        self, name: str, array: npt.NDArray[Any], dtype: ir.DataType | None = None, *, own: bool = False
    ) -> ir.Value:
        """An initializer holding ``array``; equal small arrays are stored once, but for one that is ``own``."""
        key = (str(dtype or array.dtype), array.tobytes(), array.shape)
        if array.size <= 64 and key in self._shared and not own:
            shared = self._shared[key]
            if shared.name not in self.graph.initializers:  # nothing read it for a while
                self.graph.register_initializer(shared)
            return shared
        tensor = ir.tensor(array, dtype=dtype, name=self.unique(name))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        self._shared.setdefault(key, value)
        return value

    def integers(self, name: str, values: Sequence[int]) -> ir.Value:
        """An int64 initializer, as axes, shapes and amounts are given to operators."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def insert(
        self,
        where: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        dtype: ir.DataType | None = ir.DataType.FLOAT,
        shape: ir.Shape | None = None,
        after: bool = False,
    ) -> ir.Value:
        """Insert a standard operator before (or after) ``where``; returns its output."""
        output = ir.Value(name=self.unique(name), shape=shape, type=None if dtype is None else ir.TensorType(dtype))
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


def is_marker(node: ir.Node | None, kind: str | None = None) -> bool:
    """Whether a node stands for a quantizer, of weights or activations where ``kind`` says so."""
    if node is None or node.domain != DOMAIN or node.op_type != MARKER:
        return False
    return kind is None or attribute(node, "kind") == kind


def markers(graph: ir.Graph, kind: str) -> Iterator[ir.Node]:
    """The nodes that stand for quantizers of weights or of activations, as they are now."""
    return (node for node in list(graph) if is_marker(node, kind))


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value."""
    return [use.node for use in value.uses()]


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, or None when several do or the graph hands it out."""
    found = readers(value)
    return found[0] if len(found) == 1 and not value.is_graph_output() else None


def maker_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value; None when there is none, or none of these types."""
    maker = None if value is None else value.producer()
    return maker if maker is not None and (not op_types or maker.op_type in op_types) else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX attributes are of any type
    """The value of an attribute, or ``default`` when the node does not carry it."""
    return node.attributes[name].value if name in node.attributes else default


def scalar(value: float | int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A 0-d array."""
    return np.array(value, dtype=dtype)


def sizes_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The size of each axis of a value, None for one that is only known at run time; None without a known rank."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)
