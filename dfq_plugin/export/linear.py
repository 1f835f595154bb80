"""Matrix products with a weight and a bias in the one form that always runs on an integer kernel.

PyTorch writes a linear layer of more than two axes as MatMul and Add. onnxruntime makes an integer kernel of the MatMul
and leaves the Add in float, or spoils both. A Gemm of two axes, with a Reshape on either side, becomes a QGemm.
"""

from __future__ import annotations

import onnx_ir as ir

from dfq_plugin.export.movement import is_quantized
from dfq_plugin.export.surgery import Surgeon, array_of, is_marker, maker_of, sizes_of, sole_reader


def rewrite_linear_layers(surgeon: Surgeon) -> None:
    """Turn every MatMul of quantized operands with a bias behind it into a Gemm."""
    for node in list(surgeon.graph):
        if node.op_type == "Add":
            _to_gemm(surgeon, node)
    surgeon.remove_dead()


def _to_gemm(surgeon: Surgeon, addition: ir.Node) -> None:
    product = maker_of(addition.inputs[0], "MatMul") or maker_of(addition.inputs[1], "MatMul")
    if product is None or sole_reader(product.outputs[0]) is not addition:
        return
    source, weight = product.inputs
    if not is_quantized(source) or not is_marker(_maker_of_weight(weight), "weight"):
        return
    bias = array_of(addition.inputs[1] if addition.inputs[0] is product.outputs[0] else addition.inputs[0])
    before, after, matrix = sizes_of(source), sizes_of(addition.outputs[0]), sizes_of(weight)
    if source is None or bias is None or before is None or after is None or matrix is None:
        return
    if len(matrix) != 2 or bias.shape[-1:] != (bias.size,) or bias.size != matrix[1]:
        return
    flat = len(before) == 2
    if not flat and after.count(None) > 1:
        return  # a Reshape can work out one size by itself, no more
    name, result = addition.name, addition.outputs[0]
    if not flat:
        rows = surgeon.integers("matrix_shape", [-1, matrix[0] or -1])
        source = surgeon.insert(addition, "Reshape", [source, rows], name=f"{name}_flat")
    inputs = [source, weight, surgeon.constant(f"{name}_bias", bias.reshape(-1))]
    total = surgeon.insert(addition, "Gemm", inputs, name=f"{name}_gemm")
    maker_of(total).name = product.name  # type: ignore[union-attr]
    if not flat:
        sizes = surgeon.integers("linear_shape", [-1 if size is None else size for size in after])
        total = surgeon.insert(addition, "Reshape", [total, sizes], name=f"{name}_shaped")
    total.shape = result.shape
    surgeon.replace(result, total)


def _maker_of_weight(weight: ir.Value | None) -> ir.Node | None:
    """The quantizer of a weight, which may be transposed behind it."""
    maker = maker_of(weight)
    return maker_of(maker.inputs[0]) if maker is not None and maker.op_type == "Transpose" else maker
