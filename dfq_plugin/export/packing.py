"""How weight codes are stored: one byte each, two or four to a byte, or as bit planes.

    none        int8
    int4        INT4, two codes a byte, for codes of at most 4 bits
    int2        INT2, four codes a byte, for codes of at most 2 bits; INT4 for those of 3 and 4 bits
    bitplanes   b bits a code for codes of b < 8 bits, eight codes to b bytes

Packed codes are unpacked by standard operators that onnxruntime works out while it loads the file: kernels, speed and
results are the same, only the file is smaller. A tensor that would not become smaller stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.surgery import Surgeon

Packing = Literal["none", "int4", "int2", "bitplanes"]
Codes = npt.NDArray[np.int8]
Unpack = Callable[[Surgeon, ir.Node, Codes, str, int], ir.Value]

FRAME_BYTES = 24  # around a tensor or node in a file: its kind, its shape, their lengths
INT2_OPSET, INT2_IR_VERSION = 25, 13  # the first that know INT2


def store_codes(surgeon: Surgeon, where: ir.Node, codes: Codes, name: str, *, bits: int, packing: Packing) -> ir.Value:
    """Store weight codes as an initializer and return the value that holds them as int8.

    Args:
        surgeon: of the graph to change.
        where: the node in front of which unpacking operators may stand.
        codes: any shape.
        name: of the initializer.
        bits: of the codes.
        packing: the form asked for; codes of too many bits for it are not packed.
    """
    form = _form(packing, bits)
    if form is not None:
        packed = form(surgeon, where, codes, name, bits)
        if _stored_bytes(packed) < codes.nbytes + len(name) + FRAME_BYTES:
            return packed
    return surgeon.constant(f"{name}_codes", codes, own=True)


def declare_packed_types(model: ir.Model) -> None:
    """Raise the versions a file declares to those that know INT2, if it holds any."""
    if any(value.dtype == ir.DataType.INT2 for value in model.graph.initializers.values()):
        model.graph.opset_imports[""] = max(model.graph.opset_imports[""], INT2_OPSET)
        model.ir_version = max(model.ir_version, INT2_IR_VERSION)


def _form(packing: Packing, bits: int) -> Unpack | None:
    if packing == "int2" and bits <= 2:
        return _as_int2
    if packing != "none" and bits == 4:
        return _as_int4  # bit planes would be as large and slower to unpack
    if packing in {"int4", "int2"} and bits < 4:
        return _as_int4
    return _as_bit_planes if packing == "bitplanes" and bits < 8 else None


def _as_int4(surgeon: Surgeon, where: ir.Node, codes: Codes, name: str, bits: int) -> ir.Value:  # noqa: ARG001
    stored = surgeon.constant(f"{name}_int4", codes.astype(ml_dtypes.int4))
    return _cast(surgeon, where, stored, ir.DataType.INT8, name)


def _as_int2(surgeon: Surgeon, where: ir.Node, codes: Codes, name: str, bits: int) -> ir.Value:  # noqa: ARG001
    stored = surgeon.constant(f"{name}_int2", codes.astype(ml_dtypes.int2))
    return _cast(surgeon, where, stored, ir.DataType.INT8, name)


def _as_bit_planes(surgeon: Surgeon, where: ir.Node, codes: Codes, name: str, bits: int) -> ir.Value:
    """The codes are cut into eight rows; a byte of a plane holds one bit of each of the eight codes in a column.

    They are unpacked by a product of place values and bits. The place of the highest bit counts negative, as in two's
    complement. Bits are singled out by masks: OpenVINO's BitShift gets some of them wrong.
    """
    rows = np.pad(codes.reshape(-1), (0, -codes.size % 8)).reshape(8, -1)
    planes = [np.packbits((rows >> place) & 1, axis=0, bitorder="little") for place in range(bits)]
    places = [1 << place for place in range(bits - 1)] + [-(1 << (bits - 1))]
    stored = surgeon.constant(f"{name}_planes", np.concatenate(planes)[None])  # (1, bits, columns)
    masks = surgeon.constant("bit_masks", (1 << np.arange(8)).astype(np.uint8).reshape(8, 1, 1))
    factors = surgeon.constant("place_values", np.array([places], dtype=np.int8))

    def step(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:  # noqa: ANN401 - ONNX attributes
        return surgeon.insert(where, op_type, inputs, attributes, name=f"{name}_bits", dtype=None)

    is_set = step("Cast", step("BitwiseAnd", stored, masks), to=ir.DataType.BOOL)
    numbers = step("MatMulInteger", factors, step("Cast", is_set, to=ir.DataType.UINT8))  # (8, 1, columns)
    if codes.size % 8:
        flat = step("Reshape", numbers, surgeon.integers("in_a_row", [-1]))
        numbers = step("Slice", flat, surgeon.integers("start", [0]), surgeon.integers("end", [codes.size]))
    numbers = step("Reshape", numbers, surgeon.integers("codes_shape", codes.shape))
    return _cast(surgeon, where, numbers, ir.DataType.INT8, name)


def _cast(surgeon: Surgeon, where: ir.Node, stored: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    return surgeon.insert(
        where, "Cast", [stored], {"to": dtype}, name=f"{name}_unpacked", dtype=dtype, shape=stored.shape
    )


def _stored_bytes(value: ir.Value) -> int:
    """Room in the file of a value and all that it is unpacked from, names included."""
    node = value.producer()
    if node is None:
        tensor = ir.convenience.get_const_tensor(value)
        return 0 if tensor is None else math.ceil(tensor.nbytes) + len(str(value.name)) + FRAME_BYTES
    own = ir.to_proto(node).ByteSize() + ir.to_proto(value).ByteSize() + FRAME_BYTES
    return int(own) + sum(_stored_bytes(source) for source in node.inputs if source is not None)
