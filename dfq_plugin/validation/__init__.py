"""Validate: what onnxruntime really runs, whether it equals the integer reference, how good and how fast it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dfq_plugin.config import ValidateSettings
from dfq_plugin.images import LabelledImages
from dfq_plugin.student import Student
from dfq_plugin.validation.accuracy import Quality, compare_logits, layer_sqnr, onnx_logits, torch_logits
from dfq_plugin.validation.census import Census, require_integer, take_census
from dfq_plugin.validation.parity import Overflow, Parity, compare, find_overflow, require_equal
from dfq_plugin.validation.runtime import open_session, size_on_disk
from dfq_plugin.validation.speed import Latency, measure

__all__ = [
    "Census",
    "Latency",
    "Overflow",
    "Parity",
    "Quality",
    "Verdict",
    "assess",
    "assess_network",
    "validate",
]

logger = logging.getLogger("nncf.dfq_plugin.validate")
SQNR_IMAGES = 8  # images for the per-layer ratios; every activation of these is held in memory


@dataclass(frozen=True)
class Verdict:
    """What was found out about one exported file.

    Attributes:
        census: operators on integer kernels and in float.
        parity: code-by-code comparison with the integer reference.
        latency: float and integer milliseconds; None when no float file was given.
        size_bytes: of the file, with the weights that it keeps beside it.
        sqnr_db: per quantized tensor, in dB.
        overflow: what changes without exact sums; None where this processor's are exact anyway.
    """

    census: Census
    parity: Parity
    latency: Latency | None
    size_bytes: int
    sqnr_db: tuple[tuple[str, float], ...]
    overflow: Overflow | None = None


def validate(
    path: str | Path,
    student: Student,
    images: Tensor,
    settings: ValidateSettings | None = None,
    float_path: str | Path | None = None,
) -> Verdict:
    """Prove that an exported file runs on integer kernels and computes what the reference says.

    Args:
        path: the exported file.
        student: the network it was exported from.
        images: (N, C, H, W) in the network's input space; any images will do, exactness is not a matter of quality.
        settings: how much to compare and time.
        float_path: the float network as ONNX, to time against.

    Raises:
        ValidationError: a layer that was asked to be quantized runs in float, or a code differs.
    """
    settings = settings or ValidateSettings()
    census = take_census(path)
    if settings.require_integer:
        require_integer(census, path)
    in_float = [node.name for node in census.float_nodes]
    tolerance = settings.parity_tolerance
    parity = compare(path, images.numpy(), settings.parity_codes, tolerance=tolerance, in_float=in_float)
    overflow = None
    if not census.is_weight_only:
        require_equal(parity, path)
        overflow = find_overflow(path, images.numpy())
    latency = None
    if float_path is not None and settings.latency_runs > 0:
        latency = measure(float_path, path, student.input_shape, settings.latency_runs)
    ratios = layer_sqnr(student, images[:SQNR_IMAGES])
    logger.info(
        "%d integer and %d float operators; %d codes compared on %d images, %d mismatches, largest difference %d.",
        census.integer,
        census.float,
        parity.codes_compared,
        parity.images,
        parity.mismatches,
        parity.max_difference,
    )
    return Verdict(census, parity, latency, size_on_disk(path), tuple(ratios), overflow)


def assess(path: str | Path, student: Student, teacher: nn.Module, evidence: LabelledImages) -> dict[str, Quality]:
    """Quality of teacher, student and file on images that had no part in making them.

    Args:
        path: the exported file.
        student: the network it was exported from.
        teacher: the float network.
        evidence: images in the network's input space, with labels or without.

    Returns:
        ``{"teacher": ..., "student": ..., "onnx": ...}``.
    """
    images = evidence.images
    reference = torch_logits(teacher, images)
    answers = {
        "teacher": reference,
        "student": torch_logits(student, images),
        "onnx": onnx_logits(open_session(Path(path)), images),
    }
    return {name: compare_logits(logits, reference, evidence.labels) for name, logits in answers.items()}


def assess_network(network: nn.Module, teacher: nn.Module, evidence: LabelledImages) -> Quality:
    """Quality of a network that has no file, as ``assess``."""
    images = evidence.images
    return compare_logits(torch_logits(network, images), torch_logits(teacher, images), evidence.labels)
