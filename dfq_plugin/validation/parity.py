"""Parity: onnxruntime's integer kernels against the independent reference, code by code.

Every tensor of codes in the file is made an output of a copy of the file; both sides run the same images and every
code is compared for equality. The file itself is run too: its logits must equal the copy's and the reference's bit by
bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from dfq_plugin.errors import ValidationError
from dfq_plugin.validation.integer_reference import open_reference
from dfq_plugin.validation.runtime import load_proto, open_session, run

CODE_MAKERS = frozenset({"QuantizeLinear", "Clip", "MaxPool", "Slice", "Pad"})


@dataclass(frozen=True)
class Parity:
    """The outcome of the comparison.

    Attributes:
        codes_compared: how many codes.
        mismatches: how many of them differ.
        tensors: how many tensors of codes were compared.
        tensors_taken: how many stand behind a float operator and were taken over instead.
        logits_equal: whether the logits agree bit by bit; None when a float operator stands in front of them.
        images: how many images were run.
        worst: tensors that differ, with their count, most first.
    """

    codes_compared: int
    mismatches: int
    tensors: int
    tensors_taken: int
    logits_equal: bool | None
    images: int
    worst: tuple[tuple[str, int], ...] = ()


def compare(path: str | Path, images: npt.NDArray[np.float32], min_codes: int, batch_size: int = 4) -> Parity:
    """Compare onnxruntime with the integer reference on as many images as make ``min_codes`` codes.

    Args:
        path: the exported file.
        images: (N, C, H, W) float32 in the network's input space.
        min_codes: stop once this many codes were compared, or when the images are used up.
        batch_size: images run at a time; bounds memory.
    """
    model = load_proto(path)
    reference = open_reference(model)
    shipped, watched = open_session(Path(path)), open_session(_expose_codes(model).SerializeToString())
    names = [output.name for output in watched.get_outputs()]
    compared = used = 0
    taken: set[str] = set()
    differing: dict[str, int] = {}
    tensors: set[str] = set()
    logits_equal: bool | None = None
    for batch in _batches(images, batch_size):
        outputs = dict(zip(names, run(watched, batch), strict=True))
        logits = outputs.pop(names[0])
        if not np.array_equal(logits, run(shipped, batch)[0]):
            msg = f"{path}: making its codes visible changes its logits, so they cannot be compared."
            raise ValidationError(msg)
        result = reference.run(batch, outputs)
        taken |= outputs.keys() - result.codes.keys()
        for name in outputs.keys() & result.codes.keys():
            tensors.add(name)
            compared += outputs[name].size
            wrong = int(np.count_nonzero(outputs[name] != result.codes[name]))
            if wrong:
                differing[name] = differing.get(name, 0) + wrong
        if result.output is not None:
            logits_equal = bool(np.array_equal(result.output, logits)) and logits_equal is not False
        used += len(batch)
        if compared >= min_codes:
            break
    worst = tuple(sorted(differing.items(), key=lambda item: -item[1]))
    return Parity(compared, sum(differing.values()), len(tensors), len(taken), logits_equal, used, worst)


def require_equal(parity: Parity, path: str | Path) -> None:
    """Raise when a code differs, or nothing was compared.

    Raises:
        ValidationError: naming the tensors that differ.
    """
    if parity.codes_compared == 0:
        msg = f"{path}: no tensor of codes could be compared, so nothing is proven; is any layer quantized?"
        raise ValidationError(msg)
    if parity.mismatches or parity.logits_equal is False:
        listed = ", ".join(f"{name} ({count})" for name, count in parity.worst[:5]) or "the logits"
        msg = (
            f"{path}: onnxruntime and the integer reference differ in {parity.mismatches} of {parity.codes_compared} "
            f"codes: {listed}."
        )
        raise ValidationError(msg)


def _expose_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor of uint8 codes is an output too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    codes: set[str] = set()
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" or (node.op_type in CODE_MAKERS and node.input[0] in codes):
            codes.add(node.output[0])
            kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.UINT8, None)
            copy.graph.output.append(onnx.helper.make_value_info(node.output[0], kind))
    return copy


def _batches(images: npt.NDArray[np.float32], size: int) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
