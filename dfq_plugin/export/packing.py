"""How weight codes are stored: one byte each, or two 4-bit codes a byte.

The packed form is unpacked by a Cast that onnxruntime folds while it loads the file: kernels, speed and results are
the same, only the file is smaller.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dfq_plugin.export.surgery import Surgeon

Packing = Literal["none", "int4"]


def store_codes(
    surgeon: Surgeon, where: ir.Node, codes: npt.NDArray[np.int8], name: str, *, bits: int, packing: Packing
) -> ir.Value:
    """Store weight codes as an initializer and return the value that holds them as int8.

    Args:
        surgeon: of the graph to change.
        where: the node in front of which an unpacking Cast may stand.
        codes: any shape.
        name: of the initializer.
        bits: of the codes; only those of at most 4 can be packed.
        packing: the form asked for.
    """
    if packing == "int4" and bits <= 4:
        packed: npt.NDArray[Any] = codes.astype(ml_dtypes.int4)
        stored = surgeon.constant(f"{name}_int4", packed)
        return surgeon.insert(
            where,
            "Cast",
            [stored],
            {"to": ir.DataType.INT8},
            name=f"{name}_codes",
            dtype=ir.DataType.INT8,
            shape=stored.shape,
        )
    return surgeon.constant(f"{name}_codes", codes)
