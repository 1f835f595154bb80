"""Let operators that only move numbers move codes, a quarter of the bytes: DequantizeLinear goes below them."""

from __future__ import annotations

from collections import deque

import onnx_ir as ir

from dfq_plugin.export.movement import data_inputs, grid_of, pads_with_constant
from dfq_plugin.export.surgery import Surgeon, maker_of, readers


def sink_dequantizers(surgeon: Surgeon) -> None:
    """Move each activation's DequantizeLinear below the movements that read it, as far as it goes."""
    queue = deque(node for node in surgeon.graph if _is_activation(node))
    while queue:
        dequantizer = queue.popleft()
        for reader in dict.fromkeys(readers(dequantizer.outputs[0])):
            if reader.op_type == "Shape":
                reader.replace_input_with(0, dequantizer.inputs[0])
            elif _reads_one_grid(reader):
                queue.extend(_sink(surgeon, reader))
    surgeon.remove_dead()


def _is_activation(node: ir.Node | None) -> bool:
    """Whether a node is the DequantizeLinear of an activation; those of weights and biases read int8 and int32."""
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype == ir.DataType.UINT8


def _reads_one_grid(node: ir.Node) -> bool:
    """Whether all that an operator moves comes out of DequantizeLinear with the same step and zero point."""
    makers = [maker_of(value) for value in data_inputs(node)]
    return all(_is_activation(maker) for maker in makers) and len({grid_of(maker) for maker in makers}) == 1


def _sink(surgeon: Surgeon, node: ir.Node) -> list[ir.Node]:
    """Let a movement read codes, and put a DequantizeLinear behind each of its outputs."""
    sources = [maker for value in data_inputs(node) if (maker := maker_of(value)) is not None]
    _, scale, zero_point = sources[0].inputs
    for index, source in enumerate(sources):
        node.replace_input_with(index, source.inputs[0])
    if pads_with_constant(node):
        node.resize_inputs(max(3, len(node.inputs)))
        node.replace_input_with(2, zero_point)
    moved = node.outputs if node.op_type == "Split" else node.outputs[:1]
    return [_dequantize_behind(surgeon, node, value, scale, zero_point) for value in moved]


def _dequantize_behind(
    surgeon: Surgeon, node: ir.Node, moved: ir.Value, scale: ir.Value | None, zero_point: ir.Value | None
) -> ir.Node:
    name = f"{moved.name}_values"
    values = ir.Value(name=surgeon.unique(name), shape=moved.shape, type=ir.TensorType(ir.DataType.FLOAT))
    surgeon.replace(moved, values)
    moved.type = ir.TensorType(ir.DataType.UINT8)
    dequantizer = ir.node("DequantizeLinear", [moved, scale, zero_point], outputs=[values], name=values.name)
    surgeon.graph.insert_after(node, dequantizer)
    return dequantizer
