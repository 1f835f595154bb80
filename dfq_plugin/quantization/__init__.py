"""Quantize: NNCF places the quantizers, the bit plan sets their bits, range search fits them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.errors import ConfigError, InputError, UnsupportedModelError
from dfq_plugin.finite import broken_tensors, listed
from dfq_plugin.network_state import untouched_random_state
from dfq_plugin.quantization.analytic_ranges import batchnorm_moments
from dfq_plugin.quantization.bits import summarise
from dfq_plugin.quantization.checkpoint import load_student, save_student
from dfq_plugin.quantization.equalization import equalize_all
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.quantization.ignored import operations_of_scopes
from dfq_plugin.quantization.low_bit_step import LowBitStep
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.nncf_steps import run_pipeline
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.quantization.ranges import set_limits
from dfq_plugin.quantization.reconstruction import bytes_an_image
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet

__all__ = ["bytes_between_blocks", "load_student", "operations_of_scopes", "quantize", "save_student"]

logger = logging.getLogger("nncf.dfq_plugin.quantize")


def quantize(
    teacher: nn.Module,
    synthetic: SyntheticSet,
    settings: QuantizeSettings,
    target_device: str = "ANY",
    train: Callable[[Student], object] | None = None,
    *,
    checkpoint: Path | None = None,
) -> Student:
    """Make a student: a BatchNorm-folded copy of the teacher, quantized on the synthetic set.

    Args:
        teacher: the float network; never modified. The student is made on its device.
        synthetic: calibration images in the teacher's normalised input space.
        settings: bits, placement and ranges.
        target_device: whose layout of quantizers NNCF uses, "ANY", "CPU", "GPU" or "NPU".
        train: trains the student as the last step of NNCF's own pipeline, such as ``finetune`` with everything but the
            student filled in; None leaves it untrained.
        checkpoint: a file that block reconstruction writes after every block, from which a killed run goes on with the
            same result. It stays, until whoever keeps the student removes it.

    Returns:
        The student, in eval mode, its biases on the integer grid.

    Raises:
        ConfigError: an ignored scope or a bit override matches nothing in the network, or reconstruction is asked for
            on images that only stand in.
        InputError: the checkpoint is that of another run, or the network is not finite on the images, or one of its
            activations is zero on all of them.
        UnsupportedModelError: the network has nothing that can be quantized.
    """
    device = _device_of(teacher)
    if not synthetic.informative:
        settings = _without_images(settings, synthetic.provenance.provider)
    ensure_extension("cuda" if device.type == "cuda" else "cpu")
    example = synthetic.images[:1].to(device)
    network = prepare(teacher, example)
    graph = OperatorGraph.trace(network, example)
    moments = batchnorm_moments(teacher, example, graph)
    if settings.equalization:
        moments = equalize_all(network, graph, moments)
    with untouched_random_state(teacher), torch.no_grad():
        hooked, step = run_pipeline(
            network,
            graph,
            synthetic.to_nncf(batch_size=settings.batch_size, device=device),
            settings,
            target_device,
            moments=moments,
            finish=lambda hooked, step: _finished(hooked, step, synthetic),
            train=train,
            checkpoint=checkpoint,
        )
    # A student that was trained has been finished before: its ranges are what it has learned.
    student = _finished(hooked, step, synthetic) if train is None else step.student(hooked, _shape_of(synthetic))
    student.calibrated_on = synthetic.origin()
    if broken := broken_tensors(student.network):
        msg = f"Quantizing gave numbers that are not finite, in {listed(broken)}; check the images, or lower the rates "
        msg += "in quantize.reconstruction."
        raise InputError(msg)
    logger.info("Bit plan:\n%s", summarise(student.plan))
    return student


def _device_of(teacher: nn.Module) -> torch.device:
    weight = next(teacher.parameters(), None)
    if weight is None:
        msg = f"{type(teacher).__name__} has no weights, so there is nothing to quantize."
        raise UnsupportedModelError(msg)
    return weight.device


def _shape_of(synthetic: SyntheticSet) -> tuple[int, int, int]:
    channels, height, width = synthetic.images.shape[1:]
    return channels, height, width


def _finished(hooked: nn.Module, step: LowBitStep, synthetic: SyntheticSet) -> Student:
    """The student as calibration leaves it: untrained, its input ready for real pixels, its biases on the grid."""
    student = step.student(hooked.requires_grad_(requires_grad=False), _shape_of(synthetic))
    if synthetic.pixel_range is not None:
        _cover_pixels(student, synthetic.pixel_range)
    student.snap_biases()
    return student


def _without_images(settings: QuantizeSettings, provider: str) -> QuantizeSettings:
    """The settings for a set whose images only stand in: ranges come from BatchNorm unless said otherwise."""
    if settings.reconstruction.steps:
        msg = (
            f"quantize.reconstruction learns from images, and those of provider '{provider}' only stand in; choose "
            "another provider, or set quantize.reconstruction.steps to 0."
        )
        raise ConfigError(msg)
    if settings.activation_range == "auto":
        return settings.model_copy(update={"activation_range": "batchnorm"})
    return settings


def bytes_between_blocks(teacher: nn.Module, example: Tensor) -> int:
    """Memory that block reconstruction holds for each image; ``example`` is one, (1, C, H, W)."""
    network = prepare(teacher, example)
    return bytes_an_image(OperatorGraph.trace(network, example), network)


def _cover_pixels(student: Student, pixel_range: tuple[float, float]) -> None:
    """Give the network's input the range that real pixels have; synthetic ones may lie far outside or well inside."""
    for site, quantizer in student.quantizers():
        if site.is_input:
            set_limits(quantizer, *pixel_range)
