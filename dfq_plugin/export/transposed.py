"""Transposed convolutions, which have no integer kernel, as ordinary convolutions, which do; exactly.

A transposed convolution of stride s computes, for each of its s x s output phases, an ordinary convolution with the
part of the kernel that this phase meets. All phases together are one convolution with s x s times the output channels;
DepthToSpace puts the phases side by side, and a Slice takes off what the transposed convolution crops.

Along one axis, with output position n = s*q + r - crop and input position i, the kernel element is

    k = n + padding - s*i  =  (r + padding - crop) - s*j,        j = i - q

so phase r meets the elements k for which j runs over a fixed window: the kernel of the ordinary convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.movement import is_quantized
from dfq_plugin.export.surgery import DOMAIN, MARKER, Surgeon, array_of, attribute, is_marker, maker_of


@dataclass(frozen=True)
class Axis:
    """One spatial axis of the ordinary convolution.

    Attributes:
        taps: for each phase and each place in the new kernel, the element of the old one, or -1 for none.
        before: padding in front.
        after: padding behind.
        crop: elements to take off in front of the result.
        excess: elements to take off behind it.
    """

    taps: npt.NDArray[np.int64]
    before: int
    after: int
    crop: int
    excess: int


def plan_axis(kernel: int, stride: int, dilation: int, padding: tuple[int, int], output_padding: int) -> Axis | None:
    """How one axis of a transposed convolution becomes one of an ordinary convolution.

    Args:
        kernel: number of elements.
        stride: of the output over the input.
        dilation: distance of neighbouring elements.
        padding: what is cropped in front and behind.
        output_padding: what is added behind.

    Returns:
        None where the padding crops more than the kernel reaches, which an ordinary convolution cannot do.
    """
    reach = dilation * (kernel - 1)
    longer = reach + 1 + output_padding - sum(padding)  # of the output, than stride * (input - 1)

    def window(crop: int) -> range:
        offset = padding[0] - crop
        return range(-((reach - offset) // stride), (offset + stride - 1) // stride + 1)

    crop = min(range(stride), key=lambda crop: (len(window(crop)), crop))
    positions = window(crop)
    phases = -(-(crop + longer) // stride)  # of the output, beyond those of the input but one
    before, after = -positions[0], phases - 1 + positions[-1]
    if before < 0 or after < 0:
        return None
    elements = np.arange(stride)[:, None] + padding[0] - crop - stride * np.array(positions)[None, :]
    met = (elements >= 0) & (elements <= reach) & (elements % dilation == 0)
    return Axis(np.where(met, elements // dilation, -1), before, after, crop, stride * phases - crop - longer)


def rearrange_weight(weight: npt.NDArray[Any], rows: Axis, columns: Axis, groups: int) -> npt.NDArray[Any]:
    """The kernel of the ordinary convolution.

    Args:
        weight: of the transposed convolution, (in, out / groups, kH, kW).
        rows: plan of the height.
        columns: plan of the width.
        groups: number of groups.

    Returns:
        (out * stride * stride, in / groups, rows, columns); the phases of one output channel follow one another.
    """
    padded = np.pad(weight, [(0, 0), (0, 0), (0, 1), (0, 1)])  # index -1 finds a zero
    phases = padded[:, :, rows.taps[:, None, :, None], columns.taps[None, :, None, :]]
    inputs, outputs, *rest = phases.shape
    grouped = phases.reshape(groups, inputs // groups, outputs, *rest)
    return np.asarray(grouped.transpose(0, 2, 3, 4, 1, 5, 6).reshape(-1, inputs // groups, *rest[2:]))


def rewrite_transposed_convolutions(surgeon: Surgeon) -> None:
    """Replace every transposed convolution of two quantized operands; others stay, and run in float."""
    for node in list(surgeon.graph):
        if node.op_type == "ConvTranspose" and is_marker(maker_of(node.inputs[1]), "weight"):
            plans = _plan(node)
            if plans is not None and is_quantized(node.inputs[0]):
                surgeon.replace(node.outputs[0], _rewrite(surgeon, node, *plans))
    surgeon.remove_dead()


def _plan(node: ir.Node) -> tuple[Axis, Axis] | None:
    """Plans of height and width; None for what DepthToSpace cannot put together, or an attribute says otherwise."""
    marker = maker_of(node.inputs[1])
    weight = array_of(marker.inputs[0]) if marker is not None else None
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    if marker is None or weight is None or weight.ndim != 4 or strides[0] != strides[1]:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        return None
    if attribute(marker, "axis", 1) != 1:
        return None
    pads, extra = attribute(node, "pads", [0] * 4), attribute(node, "output_padding", [0, 0])
    rows, columns = (
        plan_axis(weight.shape[2 + i], strides[i], dilations[i], (pads[i], pads[2 + i]), extra[i]) for i in (0, 1)
    )
    return None if rows is None or columns is None else (rows, columns)


def _rewrite(surgeon: Surgeon, node: ir.Node, rows: Axis, columns: Axis) -> ir.Value:
    """Convolve, put the phases side by side, cut off what is cropped."""
    groups, stride, result = attribute(node, "group", 1), attribute(node, "strides", [1, 1])[0], node.outputs[0]
    weight = _rearranged_marker(surgeon, node, rows, columns)
    inputs = [node.inputs[0], weight]
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        inputs.append(surgeon.constant(f"{node.name}_bias", np.repeat(bias, stride**2)))
    pads = [rows.before, columns.before, rows.after, columns.after]
    attributes = {"kernel_shape": rows.taps.shape[1:] + columns.taps.shape[1:], "pads": pads, "group": groups}
    value = surgeon.insert(node, "Conv", inputs, attributes, name=f"{node.name}_phases")
    maker_of(value).name = node.name  # type: ignore[union-attr]
    if stride > 1:
        side_by_side = {"blocksize": stride, "mode": "CRD"}
        value = surgeon.insert(node, "DepthToSpace", [value], side_by_side, name=f"{node.name}_spread")
    if any(axis.crop or axis.excess for axis in (rows, columns)):
        ends = [-axis.excess if axis.excess else np.iinfo(np.int64).max for axis in (rows, columns)]
        limits = {"starts": [rows.crop, columns.crop], "ends": ends, "axes": [2, 3]}
        cut = [surgeon.integers(name, numbers) for name, numbers in limits.items()]
        value = surgeon.insert(node, "Slice", [value, *cut], name=f"{node.name}_cropped")
    value.shape = result.shape
    return value


def _rearranged_marker(surgeon: Surgeon, node: ir.Node, rows: Axis, columns: Axis) -> ir.Value:
    """The weight's quantizer, of the same grid, for the rearranged weight."""
    (marker,) = (maker for maker in [maker_of(node.inputs[1])] if maker is not None)
    weight, step = (np.asarray(array_of(value)) for value in marker.inputs[:2])
    kernel = rearrange_weight(weight, rows, columns, attribute(node, "group", 1))
    attributes = {name: attribute(marker, name) for name in ("low", "high", "kind", "layer")}
    if step.ndim:  # one step a channel of a group, the same in every group
        phases = len(rows.taps) * len(columns.taps)
        step = np.tile(np.repeat(step, phases), len(kernel) // (phases * step.size))
        attributes["axis"] = 0
    layer = attributes["layer"]
    arrays = {"kernel": kernel, "kernel_step": step, "kernel_zero": np.zeros(step.shape, dtype=np.int64)}
    inputs = [surgeon.constant(f"{layer}_{name}", array) for name, array in arrays.items()]
    output = ir.Value(name=surgeon.unique(f"{layer}_rearranged"), shape=inputs[0].shape, type=inputs[0].type)
    surgeon.graph.insert_before(node, ir.node(MARKER, inputs, attributes, domain=DOMAIN, outputs=[output]))
    return output
