"""Averages and pools in the forms that have exact integer kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.movement import is_quantized
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, is_marker, sizes_of, sole_reader


def mean_to_pool(surgeon: Surgeon, node: ir.Node) -> None:
    """Turn a ReduceMean, which has no integer kernel, into a GlobalAveragePool of the axes that are averaged.

    A pool expects these axes at the end. To bring others there pays off only when codes are moved, not floats.
    """
    source, result = node.inputs[0], node.outputs[0]
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    before, after = sizes_of(source), sizes_of(result)
    if source is None or axes is None or before is None or after is None or after.count(None) > 1:
        return
    rank = len(before)
    averaged = sorted(int(axis) % rank for axis in axes)
    kept = [axis for axis in range(1, rank) if axis not in averaged]
    if rank < 3 or not averaged or averaged[0] == 0:
        return
    pooled: ir.Value | None = source
    if kept != [1]:
        pooled = _averaged_last(surgeon, node, source, kept, averaged)
    if pooled is None:
        return
    pooled = surgeon.insert(node, "GlobalAveragePool", [pooled], name=f"{node.name}_pool")
    if kept != [1] or not attribute(node, "keepdims", 1):
        sizes = surgeon.integers("mean_shape", [-1 if size is None else size for size in after])
        pooled = surgeon.insert(node, "Reshape", [pooled, sizes], name=f"{node.name}_shaped")
    pooled.shape = result.shape
    surgeon.replace(result, pooled)


def _averaged_last(
    surgeon: Surgeon, node: ir.Node, source: ir.Value, kept: Sequence[int], averaged: Sequence[int]
) -> ir.Value | None:
    """``source`` as (N, what is kept, what is averaged), or None where that is not worth it."""
    channels = [(sizes_of(source) or ())[axis] for axis in kept]
    if None in channels or not is_quantized(source):
        return None
    name = node.name
    turned = surgeon.insert(node, "Transpose", [source], {"perm": [0, *kept, *averaged]}, name=f"{name}_turned")
    sizes = surgeon.integers("averaged_last", [0, math.prod(size or 1 for size in channels), -1])
    return surgeon.insert(node, "Reshape", [turned, sizes], name=f"{name}_joined")


def settle_pool(surgeon: Surgeon, pool: ir.Node) -> None:
    """Let a pool round its output size down where that is the same, and an average pool count only what is there.

    onnxruntime's integer average pool divides by the whole window where that hangs over the padding, and OpenVINO's
    pads with code 0 instead of the code of zero. With a Pad in front both divide by what is really there.
    """
    source, before, after = pool.inputs[0], sizes_of(pool.inputs[0]), sizes_of(pool.outputs[0])
    if before is None or after is None or source is None:
        return
    spatial = len(before) - 2
    if before == after and set(attribute(pool, "kernel_shape")) == {1} and not is_marker(sole_reader(pool.outputs[0])):
        surgeon.replace(pool.outputs[0], source)  # in front of a quantizer it is what requantizes on an integer kernel
        return
    pads = np.array(attribute(pool, "pads", [0] * 2 * spatial))
    if attribute(pool, "ceil_mode", 0) and _size_rounded_down(pool, before, pads) == after[2:]:
        pool.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    if pool.op_type == "AveragePool" and attribute(pool, "count_include_pad", 0):
        pool.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 0)
        if pads.any():
            amounts = surgeon.integers("pads", [0, 0, *pads[:spatial].tolist(), 0, 0, *pads[spatial:].tolist()])
            padded = surgeon.insert(pool, "Pad", [source, amounts], name=f"{pool.name}_padded")
            pool.replace_input_with(0, padded)
            pool.attributes["pads"] = ir.AttrInt64s("pads", [0] * 2 * spatial)


def _size_rounded_down(pool: ir.Node, before: Sequence[int | None], pads: npt.NDArray[Any]) -> tuple[int | None, ...]:
    spatial = len(before) - 2
    kernel, strides = attribute(pool, "kernel_shape"), attribute(pool, "strides", [1] * spatial)
    dilations = attribute(pool, "dilations", [1] * spatial)
    return tuple(
        None if size is None else int(size + begin + end - dilation * (window - 1) - 1) // stride + 1
        for size, begin, end, dilation, window, stride in zip(
            before[2:], pads[:spatial], pads[spatial:], dilations, kernel, strides, strict=True
        )
    )
