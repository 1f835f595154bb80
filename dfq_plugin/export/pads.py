"""Padding in the forms that integer kernels take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dfq_plugin.export.movement import data_inputs, pads_with_constant
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, maker_of, sole_reader


def simplify_pad(surgeon: Surgeon, pad: ir.Node) -> None:
    """Drop a Pad that adds nothing; write one that wraps around as Slice and Concat, which OpenVINO knows too."""
    amounts, source = array_of(pad.inputs[1]), pad.inputs[0]
    if amounts is None or source is None or len(pad.inputs) > 3:
        return
    if not amounts.any():
        surgeon.replace(pad.outputs[0], source)
    elif attribute(pad, "mode", "constant") == "wrap" and (amounts >= 0).all():
        before, after = np.split(amounts, 2)
        wrapped = source
        for axis in np.flatnonzero(before + after):
            wrapped = _wrap(surgeon, pad, wrapped, int(axis), (int(before[axis]), int(after[axis])))
        wrapped.shape = pad.outputs[0].shape
        surgeon.replace(pad.outputs[0], wrapped)


def _wrap(surgeon: Surgeon, pad: ir.Node, source: ir.Value, axis: int, amounts: tuple[int, int]) -> ir.Value:
    """What stands at the end before, and what stands at the beginning after."""

    def part(start: int, end: int) -> ir.Value:
        cut = [surgeon.integers(name, [n]) for name, n in (("start", start), ("end", end), ("axis", axis))]
        return surgeon.insert(pad, "Slice", [source, *cut], name=f"{pad.name}_part")

    before, after = amounts
    values = [part(-before, np.iinfo(np.int64).max)] if before else []
    values.append(source)
    values += [part(0, after)] if after else []
    return surgeon.insert(pad, "Concat", values, {"axis": axis}, name=f"{pad.name}_wrapped")


def absorb_pads(surgeon: Surgeon) -> None:
    """Let convolutions pad for themselves; quantizers must stand where they will stand in the end."""
    for node in list(surgeon.graph):
        if node.op_type == "Conv":
            _absorb_pad(node)
    surgeon.remove_dead()


def _absorb_pad(conv: ir.Node) -> None:
    pad = maker_of(conv.inputs[0], "Pad")
    if pad is None or not pads_with_constant(pad) or not data_inputs(pad) or sole_reader(pad.outputs[0]) is not conv:
        return
    amounts = array_of(pad.inputs[1])
    if len(pad.inputs) > 3 or amounts is None:
        return
    half = len(amounts) // 2
    if amounts[:2].any() or amounts[half : half + 2].any() or (amounts < 0).any():
        return  # pads the batch or the channels, or crops
    spatial = np.concatenate([amounts[2:half], amounts[half + 2 :]])
    own = np.array(attribute(conv, "pads", [0] * len(spatial)))
    conv.attributes["pads"] = ir.AttrInt64s("pads", [int(total) for total in own + spatial])
    conv.replace_input_with(0, pad.inputs[0])
