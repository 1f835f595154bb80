"""NNCF's symmetric quantizers with gradients that cost a quarter, while a student is trained.

What is computed is the same up to the last bit of float32; a student is measured and exported with NNCF's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import Tensor

from dfq_plugin.straight_through import round_to_grid
from dfq_plugin.student import Student


@contextmanager
def lean_quantizers(student: Student) -> Iterator[None]:
    """Let the symmetric quantizers of a student round by our own function while the block runs."""
    quantizers = [quantizer for _, quantizer in student.quantizers() if "scale" in quantizer.get_trainable_params()]
    for quantizer in quantizers:
        quantizer.quantize = MethodType(_quantize, quantizer)  # on the object: a copy of it gets one of its own
    try:
        yield
    finally:
        for quantizer in quantizers:
            del quantizer.quantize


def _quantize(quantizer: Any, values: Tensor, execute_traced_op_as_identity: bool = False) -> Tensor:  # noqa: ANN401, FBT001, FBT002 - NNCF's own signature
    if execute_traced_op_as_identity:
        return values
    step = (quantizer.scale.abs() + quantizer.eps) / quantizer.level_high
    return round_to_grid(values, step, (quantizer.level_low, quantizer.level_high))
