"""Parts of a student in float for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dfq_plugin.student import Student


@contextmanager
def in_float(student: Student) -> Iterator[None]:
    """Let a student compute in float; afterwards its quantizers work again, without gradients, as they were."""
    enabled = [quantizer for _, quantizer in student.quantizers() if quantizer.is_enabled_quantization()]
    for quantizer in enabled:
        quantizer.disable_quantization()
    try:
        yield
    finally:
        for quantizer in enabled:
            quantizer.enable_quantization()
            quantizer.requires_grad_(requires_grad=False)
