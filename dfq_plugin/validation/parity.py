"""Parity: onnxruntime's integer kernels against the independent reference, code by code.

Every tensor of codes in the file is made an output of a copy of the file; both sides run the same images and every
code is compared for equality. The file itself is run too: its logits must equal the copy's and the reference's bit by
bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from dfq_plugin.errors import ValidationError
from dfq_plugin.hardware import read_processor
from dfq_plugin.validation.arithmetic import UINT8_MAX, Array
from dfq_plugin.validation.integer_reference import IntegerReference, open_reference
from dfq_plugin.validation.library import MOVEMENT
from dfq_plugin.validation.runtime import load_proto, open_session, run

BATCH = 4  # images run at a time; bounds memory
CODE_MAKERS = MOVEMENT | {"Clip", "Concat", "Max", "MaxPool", "Min", "Resize"}  # make codes when they read codes
RENAMED = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})  # the same codes in the same order


@dataclass(frozen=True)
class Parity:
    """The outcome of the comparison.

    Attributes:
        codes_compared: how many codes.
        mismatches: how many of them differ, by more than the tolerance where one was allowed.
        tensors: how many tensors of codes were compared.
        tensors_taken: how many stand behind a float operator and were taken over instead.
        logits_equal: whether the logits agree bit by bit; None when a float operator stands in front of them, or when
            codes may differ.
        images: how many images were run.
        worst: tensors that differ, with their count, most first.
        max_difference: the largest difference between two codes.
    """

    codes_compared: int
    mismatches: int
    tensors: int
    tensors_taken: int
    logits_equal: bool | None
    images: int
    worst: tuple[tuple[str, int], ...] = ()
    max_difference: int = 0


def compare(
    path: str | Path,
    images: npt.NDArray[np.float32],
    min_codes: int,
    batch_size: int = BATCH,
    *,
    tolerance: int = 0,
    in_float: Collection[str] = (),
) -> Parity:
    """Compare onnxruntime with the integer reference on as many images as make ``min_codes`` codes.

    Args:
        path: the exported file.
        images: (N, C, H, W) float32 in the network's input space.
        min_codes: stop once this many codes were compared, or when the images are used up.
        batch_size: images run at a time; bounds memory.
        tolerance: codes may differ by this much; the reference then goes on with onnxruntime's codes, so that a
            difference does not grow from layer to layer.
        in_float: names of nodes that run in float, as the census found; what they make is taken over.

    Raises:
        ValidationError: onnxruntime cannot load the file, computes other logits once its codes are visible, or gives
            logits that are not finite.
    """
    path = Path(path)
    model = load_proto(path)
    reference = open_reference(model, path.parent, in_float)
    shipped = open_session(path)
    watched = open_session(_expose_codes(model).SerializeToString(), folder=path.parent)
    tally = _Tally(tolerance)
    for batch in _batches(images, batch_size):
        outputs = _watch(watched, batch)
        logits = outputs.pop(model.graph.output[0].name)
        if not np.array_equal(logits, run(shipped, batch)[0], equal_nan=True):
            msg = f"{path}: making its codes visible changes its logits, so they cannot be compared."
            raise ValidationError(msg)
        if not np.isfinite(logits).all():
            msg = f"{path}: it gives logits that are not finite, so it is of no use; check student and images."
            raise ValidationError(msg)
        tally.count(reference, batch, outputs, logits)
        if tally.compared >= min_codes:
            break
    return tally.result()


@dataclass(frozen=True)
class Overflow:
    """What changes where onnxruntime is not asked for exact sums.

    Attributes:
        codes: how many codes were looked at.
        differing: how many of them are others, because they or what they were made of overflowed.
        max_difference: the largest difference between two codes.
        images: how many images were run.
    """

    codes: int
    differing: int
    max_difference: int
    images: int


def find_overflow(path: str | Path, images: npt.NDArray[np.float32]) -> Overflow | None:
    """Compare sessions with and without exact sums; None where the processor's sums are exact anyway.

    Args:
        path: the exported file.
        images: (N, C, H, W) float32 in the network's input space; the first ``BATCH`` of them are run.
    """
    if read_processor().may_saturate_w8a8 is False:
        return None
    watched, batch = _expose_codes(load_proto(path)).SerializeToString(), images[:BATCH]
    exact, plain = (
        _watch(open_session(watched, folder=Path(path).parent, exact_sums=asked), batch) for asked in (True, False)
    )
    tally = _Tally(tolerance=0)
    for name, codes in exact.items():
        if codes.dtype == np.uint8:
            tally.compare(name, plain[name], codes)
    return Overflow(tally.compared, tally.differing.total(), tally.largest, len(batch))


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
        by = f", by up to {parity.max_difference}" if parity.mismatches else ""
        msg = (
            f"{path}: onnxruntime and the integer reference differ in {parity.mismatches} of {parity.codes_compared} "
            f"codes{by}: {listed}."
        )
        if read_processor().may_saturate_w8a8:
            msg += (
                " This processor has neither VNNI nor AMX. Where a layer runs twice, onnxruntime cannot keep its sums "
                "exact, and 8 bits may overflow: set quantize.overflow_fix to 'enable'."
            )
        raise ValidationError(msg)


@dataclass
class _Tally:
    """Counts of what was compared so far."""

    tolerance: int
    compared: int = 0
    images: int = 0
    largest: int = 0
    tensors: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    differing: Counter[str] = field(default_factory=Counter)
    logits_equal: bool | None = None

    def count(self, reference: IntegerReference, batch: Array, outputs: dict[str, Array], logits: Array) -> None:
        """Run the reference and compare each tensor of codes as soon as it is there."""
        untouched = set(outputs)
        for name, array in reference.steps(batch, outputs, follow=self.tolerance > 0):
            if name in untouched:
                untouched.remove(name)
                self.compare(name, outputs[name], array)
            elif array.dtype == np.float32:
                same = np.array_equal(array, logits, equal_nan=True)
                self.logits_equal = None if self.tolerance else same and self.logits_equal is not False
        self.taken |= untouched
        self.images += len(batch)

    def compare(self, name: str, found: Array, expected: Array) -> None:
        """Count the codes of one tensor that differ."""
        self.tensors.add(name)
        self.compared += found.size
        if found.shape == expected.shape:
            difference = np.abs(found.astype(np.int16) - expected)
        else:
            difference = np.full(found.shape, UINT8_MAX, dtype=np.int16)
        self.largest = max(self.largest, int(difference.max(initial=0)))
        wrong = int(np.count_nonzero(difference > self.tolerance))
        if wrong:
            self.differing[name] += wrong

    def result(self) -> Parity:
        """The outcome so far."""
        return Parity(
            self.compared,
            self.differing.total(),
            len(self.tensors),
            len(self.taken),
            self.logits_equal,
            self.images,
            tuple(self.differing.most_common()),
            self.largest,
        )


def _expose_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor of uint8 codes is an output too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    codes: set[str] = set()
    present = {output.name for output in copy.graph.output}
    for node in copy.graph.node:
        if node.op_type != "QuantizeLinear" and not (node.op_type in CODE_MAKERS and node.input[0] in codes):
            continue
        codes.update(node.output)
        for name in () if node.op_type in RENAMED else node.output:
            if name not in present:
                kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.UINT8, None)
                copy.graph.output.append(onnx.helper.make_value_info(name, kind))
    return copy


def _watch(session: onnxruntime.InferenceSession, batch: npt.NDArray[np.float32]) -> dict[str, Array]:
    """Every output of a session by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, run(session, batch), strict=True))


def _batches(images: npt.NDArray[np.float32], size: int) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
