"""Rewrites of the traced float graph into the forms that have integer kernels; none changes a value.

ReduceMean over all of H, W  ->  GlobalAveragePool (+ Reshape): a mean has no integer kernel.
Flatten                      ->  Reshape: codes do not pass through Flatten.
constant zero Pad, then Conv ->  the convolution's own padding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dfq_plugin.export.surgery import Surgeon, array_of, attribute, readers


def rewrite(surgeon: Surgeon) -> None:
    """Apply every rewrite to the graph."""
    for node in list(surgeon.graph):
        if node.op_type == "ReduceMean":
            _mean_to_pool(surgeon, node)
        elif node.op_type == "Flatten":
            _flatten_to_reshape(surgeon, node)
        elif node.op_type == "Conv":
            _absorb_pad(node)
    surgeon.remove_dead()


def _mean_to_pool(surgeon: Surgeon, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or axes is None or len(source.shape) != 4:
        return
    if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return
    shape = ir.Shape([*source.shape[:2], 1, 1])
    pooled = surgeon.insert(
        node, "GlobalAveragePool", [source], name=f"{result.name}_pool", dtype=ir.DataType.FLOAT, shape=shape
    )
    if not attribute(node, "keepdims", 1):
        pooled = _insert_reshape(surgeon, node, pooled, [0, -1], result.shape)
    surgeon.replace(result, pooled)


def _flatten_to_reshape(surgeon: Surgeon, node: ir.Node) -> None:
    axis = attribute(node, "axis", 1)
    source = node.inputs[0]
    if axis == 1 and source is not None:
        result = node.outputs[0]
        surgeon.replace(result, _insert_reshape(surgeon, node, source, [0, -1], result.shape))


def _insert_reshape(
    surgeon: Surgeon, where: ir.Node, source: ir.Value, dims: list[int], shape: ir.Shape | None
) -> ir.Value:
    target = surgeon.constant("flat_shape", np.array(dims, dtype=np.int64))
    return surgeon.insert(
        where, "Reshape", [source, target], name=f"{source.name}_flat", dtype=ir.DataType.FLOAT, shape=shape
    )


def _absorb_pad(conv: ir.Node) -> None:
    pad = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if pad is None or pad.op_type != "Pad" or attribute(pad, "mode", "constant") != "constant":
        return
    amounts = array_of(pad.inputs[1])
    fill = array_of(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else np.zeros(())
    if len(pad.inputs) > 3 or amounts is None or fill is None or fill.item() != 0 or len(readers(pad.outputs[0])) != 1:
        return
    half = len(amounts) // 2
    if amounts[:2].any() or amounts[half : half + 2].any() or (amounts < 0).any():
        return  # pads the batch or the channels, or crops
    spatial = np.concatenate([amounts[2:half], amounts[half + 2 :]])
    own = np.array(attribute(conv, "pads", [0] * len(spatial)))
    conv.attributes["pads"] = ir.AttrInt64s("pads", [int(total) for total in own + spatial])
    conv.replace_input_with(0, pad.inputs[0])
