"""Names of nodes that a user of the network recognises: layer, function, and which call of it.

``layer1/0/conv1/conv2d/0`` is how NNCF names an operator, so that is how a report of what runs in float should.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

from dfq_plugin.export.surgery import attribute, is_marker

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def name_nodes(graph: ir.Graph, root: str = "") -> None:
    """Name every node after the layer it came from.

    Args:
        graph: as PyTorch's exporter made it.
        root: dotted name of the module from which layers are named.
    """
    calls: Counter[str] = Counter()
    taken: set[str] = set()
    numbered: dict[str, str] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        classes = ast.literal_eval(node.metadata_props.get(CLASSES, "[]"))
        if not scopes or not classes:
            continue
        if scopes[-1] not in numbered:  # one call of a function, which may have become several nodes
            layer = _layer(scopes, root)
            function = classes[-1].removeprefix("aten.").split(".")[0].removesuffix("_")
            numbered[scopes[-1]] = f"{layer}/{function}/{calls[layer + function]}"
            calls[layer + function] += 1
        node.name = _unique(_weighted_layer(node) or numbered[scopes[-1]], taken)


def _layer(scopes: list[str], root: str) -> str:
    """The innermost module of the network proper, with slashes; hooks are no layers."""
    inside = [scope for scope in scopes[:-1] if "__nncf_hooks" not in scope and not scope.startswith("_empty_nn_")]
    return inside[-1].removeprefix(root).lstrip(".").replace(".", "/") if inside else ""


def _weighted_layer(node: ir.Node) -> str | None:
    """The layer whose weight a product reads, as the quantizer of that weight knows it."""
    for value in node.inputs[:2] if node.op_type in PRODUCTS else ():
        maker = None if value is None else value.producer()
        if maker is not None and maker.op_type == "Transpose" and maker.inputs[0] is not None:
            maker = maker.inputs[0].producer()
        if maker is not None and is_marker(maker) and attribute(maker, "kind") == "weight":
            return str(attribute(maker, "layer"))
    return None


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
