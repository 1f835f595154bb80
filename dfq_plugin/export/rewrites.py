"""Rewrites of the traced float graph into the forms that have integer kernels; none changes a value.

what only depends on constants   ->  a constant: a quantizer of it has fixed codes
ReduceMean                       ->  GlobalAveragePool, with what brings its axes there
Flatten                          ->  Reshape: codes do not pass through Flatten
Max or Min with a number         ->  Clip: a bound that a quantizer can take over
average pool that counts padding ->  one that does not, behind a Pad
Pad with the other end           ->  Slice and Concat
GroupNormalization               ->  InstanceNormalization of the groups: onnxruntime has a kernel for that one alone
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript.optimizer import fold_constants as fold

from dfq_plugin.export.pads import simplify_pad
from dfq_plugin.export.pools import mean_to_pool, settle_pool
from dfq_plugin.export.surgery import Surgeon, array_of, attribute, sizes_of

FOLD_LIMIT = 2**22  # elements of a constant: room for the masks of any window, not for what a weight could grow into


def fold_constants(model: ir.Model) -> None:
    """Work out what does not depend on the input, such as the masks of shifted windows."""
    fold(
        model,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,  # left alone by default
        input_size_limit=FOLD_LIMIT,
        output_size_limit=FOLD_LIMIT,
    )


def rewrite(surgeon: Surgeon) -> None:
    """Apply every rewrite that looks at one operator."""
    for node in list(surgeon.graph):
        if node.op_type == "ReduceMean":
            mean_to_pool(surgeon, node)
        elif node.op_type == "Flatten":
            _flatten_to_reshape(surgeon, node)
        elif node.op_type in {"Max", "Min"}:
            _extremum_to_clip(surgeon, node)
        elif node.op_type == "Pad":
            simplify_pad(surgeon, node)
        elif node.op_type in {"AveragePool", "MaxPool"}:
            settle_pool(surgeon, node)
        elif node.op_type == "GroupNormalization":
            _normalize_groups(surgeon, node)
    surgeon.remove_dead()


def _flatten_to_reshape(surgeon: Surgeon, node: ir.Node) -> None:
    """Flatten to (N, everything else), the one form that a Reshape can write for any N."""
    source, result = node.inputs[0], node.outputs[0]
    if attribute(node, "axis", 1) == 1 and source is not None:
        sizes = surgeon.integers("flat_shape", [0, -1])
        flat = surgeon.insert(node, "Reshape", [source, sizes], name=f"{node.name}_flat", shape=result.shape)
        surgeon.replace(result, flat)


def _extremum_to_clip(surgeon: Surgeon, node: ir.Node) -> None:
    """Max(x, number) bounds x below, Min(x, number) above."""
    bounds = [value for value in node.inputs if (array := array_of(value)) is not None and array.size == 1]
    sources = [value for value in node.inputs if value not in bounds]
    if len(bounds) != 1 or len(sources) != 1:
        return
    number = array_of(bounds[0])
    if number is None or number.dtype != np.float32:
        return
    bound, result = surgeon.constant("bound", number.reshape(())), node.outputs[0]
    inputs = [sources[0], bound] if node.op_type == "Max" else [sources[0], None, bound]
    surgeon.replace(result, surgeon.insert(node, "Clip", inputs, name=f"{node.name}_clip", shape=result.shape))


def _normalize_groups(surgeon: Surgeon, node: ir.Node) -> None:
    source, scale, bias = node.inputs
    before, result, groups = sizes_of(source), node.outputs[0], attribute(node, "num_groups")
    weights = [array_of(scale), array_of(bias)]
    if source is None or before is None or before[1:].count(None) or any(array is None for array in weights):
        return
    name = node.name
    joined = surgeon.insert(
        node, "Reshape", [source, surgeon.integers("groups", [0, groups, -1])], name=f"{name}_split"
    )
    unit = [
        surgeon.constant(f"{name}_{what}", np.full(groups, number, dtype=np.float32))
        for what, number in (("one", 1), ("zero", 0))
    ]
    epsilon = {"epsilon": attribute(node, "epsilon", 1e-5)}
    value = surgeon.insert(node, "InstanceNormalization", [joined, *unit], epsilon, name=f"{name}_normal")
    shape = surgeon.integers("channels", [-1, *(size or 0 for size in before[1:])])
    value = surgeon.insert(node, "Reshape", [value, shape], name=f"{name}_joined", shape=result.shape)
    for op_type, array in zip(("Mul", "Add"), weights, strict=True):
        per_channel = surgeon.constant(f"{name}_{op_type}", np.asarray(array).reshape(-1, *[1] * (len(before) - 2)))
        value = surgeon.insert(node, op_type, [value, per_channel], name=f"{name}_{op_type}", shape=result.shape)
    surgeon.replace(result, value)
