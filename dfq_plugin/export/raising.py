"""Let every quantizer stand directly on the product it belongs to, above what only moves numbers.

Integer kernels exist for a product whose output goes to a quantizer, perhaps through a Relu, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.movement import data_inputs, grid_of, is_quantized, pads_with_constant
from dfq_plugin.export.surgery import (
    DOMAIN,
    MARKER,
    Surgeon,
    array_of,
    attribute,
    is_marker,
    maker_of,
    markers,
    readers,
    sole_reader,
)


def raise_quantizers(surgeon: Surgeon) -> None:
    """Exchange every activation quantizer, with a Relu or Clip in front of it, with the movement above.

    Equal quantizers of one tensor become one, shapes are asked of quantized tensors, and constant parts of a
    concatenation join the grid of the rest.
    """
    _merge_equal(surgeon)
    for node in list(surgeon.graph):
        if node.op_type == "Shape":
            _read_behind_quantizer(node)
        elif node.op_type == "Concat":
            _quantize_constants_beside(surgeon, node)
    surgeon.graph.sort()
    surgeon.remove_dead()
    for marker in markers(surgeon.graph, "activation"):
        while _raise_once(surgeon, marker):
            pass


def _merge_equal(surgeon: Surgeon) -> None:
    """Drop a quantizer that rounds to the grid its input is on already, and the twin of an earlier one."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for marker in markers(surgeon.graph, "activation"):
        source, result = marker.inputs[0], marker.outputs[0]
        above = _quantizer_behind_movement(source)
        if source is not None and above is not None and grid_of(above) == grid_of(marker):
            surgeon.replace(result, source)
            continue
        kept = first.setdefault((source, *grid_of(marker)), result)
        if kept is not result:
            surgeon.replace(result, kept)


def _read_behind_quantizer(shape: ir.Node) -> None:
    """Take the shape of the quantized tensor: another reader would keep its product from an integer kernel."""
    source = shape.inputs[0]
    if source is not None and source.producer() is not None:
        for reader in readers(source):
            if is_marker(reader):
                shape.replace_input_with(0, reader.outputs[0])
                return


def _quantize_constants_beside(surgeon: Surgeon, concat: ir.Node) -> None:
    """Put constant parts of a concatenation, such as zeros, on the grid of the others where they lie on it exactly."""
    quantizers = [marker for value in concat.inputs if (marker := _quantizer_behind_movement(value)) is not None]
    if len({grid_of(quantizer) for quantizer in quantizers}) != 1:
        return
    for index, value in enumerate(concat.inputs):
        numbers = _constant_behind_movement(value)
        if value is not None and numbers is not None and _lies_on_grid(numbers, quantizers[0]):
            inputs, name = [value, *quantizers[0].inputs[1:]], surgeon.unique(f"{value.name}_on_grid")
            twin = ir.Value(name=name, shape=value.shape, type=value.type)
            attributes = quantizers[0].attributes.values()
            surgeon.graph.insert_before(concat, ir.Node(DOMAIN, MARKER, inputs, attributes, outputs=[twin]))
            concat.replace_input_with(index, twin)


def _quantizer_behind_movement(value: ir.Value | None) -> ir.Node | None:
    maker = maker_of(value)
    while maker is not None and len(data_inputs(maker)) == 1:
        maker = maker_of(maker.inputs[0])
    return maker if is_marker(maker, "activation") else None


def _constant_behind_movement(value: ir.Value | None) -> npt.NDArray[Any] | None:
    while value is not None and array_of(value) is None:
        maker = maker_of(value)
        value = maker.inputs[0] if maker is not None and len(data_inputs(maker)) == 1 else None
    return array_of(value)


def _lies_on_grid(numbers: npt.NDArray[Any], quantizer: ir.Node) -> bool:
    step, zero = array_of(quantizer.inputs[1]), array_of(quantizer.inputs[2])
    if step is None or zero is None or step.size != 1:
        return False
    codes = np.rint(numbers / step) + zero
    inside = (codes >= attribute(quantizer, "low")) & (codes <= attribute(quantizer, "high"))
    return bool((inside & ((codes - zero) * step == numbers)).all())


def _raise_once(surgeon: Surgeon, marker: ir.Node) -> bool:
    """Exchange a quantizer, or the Relu or Clip before it, with the movement above, where there is one."""
    lower, limit = marker, maker_of(marker.inputs[0], "Relu", "Clip")
    if limit is not None and sole_reader(limit.outputs[0]) is marker:
        lower = limit
    upper = maker_of(lower.inputs[0])
    if upper is None or len(data_inputs(upper)) != 1 or len(upper.outputs) != 1:
        return False
    if sole_reader(upper.outputs[0]) is not lower or not _leaves_zero(lower, upper):
        return False
    above = upper.inputs[0]
    if above is None or (sole_reader(above) is not upper and array_of(above) is None):
        return False
    if is_quantized(above):
        return False  # nothing computes between the two quantizers, and they are better kept apart
    _exchange(surgeon, upper, lower)
    return True


def _leaves_zero(limit: ir.Node, movement: ir.Node) -> bool:
    """Whether zeros that a Pad adds stay zeros: a Clip may have bounds that zero is not between."""
    if limit.op_type != "Clip" or not pads_with_constant(movement):
        return True
    for index, outside in ((1, np.greater), (2, np.less)):
        bound = limit.inputs[index] if len(limit.inputs) > index else None
        number = array_of(bound)
        if bound is not None and (number is None or outside(number.item(), 0.0)):
            return False
    return True


def _exchange(surgeon: Surgeon, upper: ir.Node, lower: ir.Node) -> None:
    """Let ``lower`` come before ``upper``; both have one data input and one output."""
    source, between, result = upper.inputs[0], upper.outputs[0], lower.outputs[0]
    between.shape, result.shape = result.shape, None if source is None else source.shape
    surgeon.replace(result, between)
    lower.replace_input_with(0, source)
    upper.replace_input_with(0, result)
    surgeon.graph.remove(lower)
    surgeon.graph.insert_before(upper, lower)
