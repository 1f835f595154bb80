"""The sections of a report under their fixed names, as plain dictionaries, and their empty form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from dfq_plugin.errors import ConfigError

Number = float | None  # None: not measured


class Accuracy(TypedDict):
    """Top-1 in percent."""

    teacher: Number
    student: Number
    onnx: Number


class AgainstTeacher(TypedDict):
    """One number of the student and of the exported file, each compared with the teacher."""

    student: Number
    onnx: Number


class FloatNode(TypedDict):
    """An operator that onnxruntime runs in float."""

    name: str
    op_type: str
    reason: str


class _CensusDetails(TypedDict, total=False):
    products_asked: int
    products_integer: int
    by_type: Mapping[str, int]


class Census(_CensusDetails):
    """Operators that onnxruntime runs on integer and on float kernels.

    May also say how many convolutions and matrix products the file quantizes (``products_asked``), how many run on
    integer kernels (``products_integer``), and how many operators of each type there are (``by_type``).
    """

    integer: int
    float: int
    float_nodes: Sequence[FloatNode]


class _ParityDetails(TypedDict, total=False):
    tensors_taken: int
    logits_equal: bool | None
    images: int
    worst: Sequence[tuple[str, int]]
    max_difference: int


class Parity(_ParityDetails):
    """Integer codes compared with the integer reference, how many differ, over how many tensors.

    May also say how many tensors stand behind a float operator and were not compared (``tensors_taken``), whether the
    logits are equal bit by bit (``logits_equal``), on how many images, the tensors that differ with their counts, and
    by how much at most (``max_difference``).
    """

    codes_compared: int
    mismatches: int
    tensors: int


class FloatAndInteger(TypedDict):
    """One number of the float network and of the integer file."""

    float: Number
    integer: Number


class BitsRow(TypedDict):
    """One quantizer: the bits that were asked for, those that it has, and why."""

    name: str
    kind: str
    layer: str
    requested: int
    applied: int
    reason: str


def no_accuracy() -> Accuracy:
    """Nothing measured."""
    return {"teacher": None, "student": None, "onnx": None}


def no_comparison() -> AgainstTeacher:
    """Nothing measured."""
    return {"student": None, "onnx": None}


def no_census() -> Census:
    """Nothing measured."""
    return {"integer": 0, "float": 0, "float_nodes": []}


def no_parity() -> Parity:
    """Nothing measured."""
    return {"codes_compared": 0, "mismatches": 0, "tensors": 0}


def no_pair() -> FloatAndInteger:
    """Nothing measured."""
    return {"float": None, "integer": None}


FIXED_SECTIONS: dict[str, Any] = {
    "accuracy": Accuracy,
    "agreement": AgainstTeacher,
    "kl_nats": AgainstTeacher,
    "logits_sqnr_db": AgainstTeacher,
    "census": Census,
    "parity": Parity,
    "latency_ms": FloatAndInteger,
    "size_bytes": FloatAndInteger,
}


def check_keys(name: str, value: Mapping[str, Any], kind: Any) -> None:  # noqa: ANN401 - a TypedDict class
    """Refuse a section whose keys are not those of its class.

    Raises:
        ConfigError: A key is missing, or one is not known.
    """
    required, optional = kind.__required_keys__, kind.__optional_keys__
    if not required <= set(value) <= required | optional:
        msg = (
            f"Report section '{name}' must have the keys {', '.join(sorted(required))}; got {', '.join(sorted(value))}."
        )
        raise ConfigError(msg)
