"""The sections of a report under their fixed names, as plain dictionaries, and their empty form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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


class LayerRow(TypedDict):
    """A convolution or matrix product with weights: its bits, and how clean what it reads is (None: in float)."""

    layer: str
    weight_bits: int | None
    input_bits: int | None
    input_sqnr_db: Number


class BaselineRow(TypedDict):
    """How good the same settings are on other calibration images; in PyTorch, nothing is exported.

    ``images`` says how many; quality is measured on the same images as that of the student and the file.
    """

    images: int
    accuracy: Number
    agreement: Number
    kl_nats: Number
    logits_sqnr_db: Number
    seconds: float


class SynthesisCurves(TypedDict):
    """How the losses of a provider went: ``values`` by name, one for each step in ``at``, which counts from 1."""

    provider: str
    at: Sequence[int]
    values: Mapping[str, Sequence[Number]]


class MatchRow(TypedDict):
    """How far images are from the statistics of a BatchNorm layer, on average over its channels.

    In standard deviations of the teacher's training: the Wasserstein-2 distance of the normal distributions with the
    moments seen and stored.
    """

    layer: str
    noise: Number
    synthetic: Number
    real: Number


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


def flatten(values: Mapping[str, Any], separator: str) -> Iterator[tuple[str, str]]:
    """Every value inside dictionaries inside dictionaries, with the names on the way to it, in words."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{separator}{inner}", said) for inner, said in flatten(value, separator))
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)
