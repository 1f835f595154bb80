"""Replace every marker by standard operators, in the form that onnxruntime turns into integer kernels.

First the float graph is brought into shape, quantizers on the products they belong to. Then they become operators, and
what only rearranges numbers is made to rearrange codes.
"""

from __future__ import annotations

import onnx_ir as ir

from dfq_plugin.errors import ExportError
from dfq_plugin.export.activations import lower_activation
from dfq_plugin.export.linear import rewrite_linear_layers
from dfq_plugin.export.packing import Packing, declare_packed_types
from dfq_plugin.export.pads import absorb_pads
from dfq_plugin.export.raising import raise_quantizers
from dfq_plugin.export.rewrites import fold_constants, rewrite
from dfq_plugin.export.sinking import sink_dequantizers
from dfq_plugin.export.surgery import DOMAIN, Surgeon, attribute, is_marker, markers
from dfq_plugin.export.transposed import rewrite_transposed_convolutions
from dfq_plugin.export.weights import guard_float_weight, lower_bias, lower_weight


def lower(model: ir.Model, packing: Packing) -> None:
    """Turn a traced model with markers into a finished one, in place.

    Args:
        model: as ``trace`` made it.
        packing: how weight codes are stored.

    Raises:
        ExportError: a marker could not be lowered.
    """
    fold_constants(model)
    surgeon = Surgeon(model.graph)
    rewrite(surgeon)
    rewrite_transposed_convolutions(surgeon)
    rewrite_linear_layers(surgeon)
    raise_quantizers(surgeon)
    absorb_pads(surgeon)
    for marker in markers(model.graph, "activation"):
        lower_activation(surgeon, marker)
    surgeon.remove_dead()
    sink_dequantizers(surgeon)
    for marker in markers(model.graph, "weight"):
        lower_weight(surgeon, marker, packing)
    surgeon.remove_dead()
    for node in list(model.graph):
        lower_bias(surgeon, node)
        guard_float_weight(surgeon, node)
    surgeon.remove_dead()
    _assert_no_marker(model)
    declare_packed_types(model)


def _assert_no_marker(model: ir.Model) -> None:
    left = [attribute(node, "layer") for node in ir.traversal.RecursiveGraphIterator(model.graph) if is_marker(node)]
    if left:
        msg = (
            f"The quantizers at {', '.join(left)} stand inside a branch that is chosen at run time (torch.cond or the "
            "like) and cannot be written; add these operators to ignored_scopes."
        )
        raise ExportError(msg)
    model.graph.opset_imports.pop(DOMAIN, None)
