"""Which operators only move numbers around without computing new ones: they may as well move codes.

A quantizer and such an operator can change places, since rounding what was moved is moving what was rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dfq_plugin.export.surgery import array_of, attribute, is_marker, maker_of

# A largest element is one of the elements, and rounding keeps order.
MOVEMENTS = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool"}
    | {"Pad", "ReduceMax", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)


def data_inputs(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs whose numbers an operator moves; empty for one that computes."""
    if node.op_type not in MOVEMENTS or node.domain or not _keeps_numbers(node):
        return ()
    return tuple(node.inputs) if node.op_type == "Concat" else (node.inputs[0],)


def _keeps_numbers(node: ir.Node) -> bool:
    if node.op_type == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].uses():
        return False  # the places of the largest elements are asked for too
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    if pads_with_constant(node):
        fill = array_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
        return fill is not None and fill.item() == 0.0  # zero has a code of its own, the zero point
    return True


def pads_with_constant(node: ir.Node) -> bool:
    """Whether a node adds elements of its own around what it moves."""
    return node.op_type == "Pad" and bool(attribute(node, "mode", "constant") == "constant")


def is_quantized(value: ir.Value | None) -> bool:
    """Whether a value is what quantizers of activations made, moved or not; constants among it do not matter."""
    found, seen, queue = False, set[ir.Value](), [value]
    while queue:
        current = queue.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        maker = maker_of(current)
        if is_marker(maker, "activation"):
            found = True
        elif maker is not None and data_inputs(maker):
            queue.extend(data_inputs(maker))
        elif array_of(current) is None:
            return False
    return found


def grid_of(node: ir.Node | None) -> tuple[object, ...]:
    """Step, zero point and bounds of a quantizer or DequantizeLinear, to compare with another's."""
    if node is None:
        return ()
    arrays = [array_of(value) for value in node.inputs[1:]]
    bounds = (attribute(node, "low"), attribute(node, "high"))
    return (*(None if array is None else array.tobytes() for array in arrays), *bounds)
