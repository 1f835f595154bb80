"""Quantize: NNCF places the quantizers, the bit plan sets their bits, range search fits them."""

from __future__ import annotations

import logging

import torch
from torch import nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.quantization.bits import summarise
from dfq_plugin.quantization.checkpoint import load_student, save_student
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.nncf_steps import run_pipeline
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet

__all__ = ["load_student", "quantize", "save_student"]

logger = logging.getLogger("nncf.dfq_plugin.quantize")


def quantize(teacher: nn.Module, synthetic: SyntheticSet, settings: QuantizeSettings) -> Student:
    """Make a student: a BatchNorm-folded copy of the teacher, quantized on the synthetic set.

    Args:
        teacher: the float network; never modified.
        synthetic: calibration images in the teacher's normalised input space.
        settings: bits, placement and ranges.

    Returns:
        The student, in eval mode, its biases on the integer grid.
    """
    ensure_extension()
    example = synthetic.images[:1]
    device = next(teacher.parameters()).device
    network = prepare(teacher, example.to(device))
    graph = OperatorGraph.trace(network, example.to(device))
    dataset = synthetic.to_nncf(batch_size=settings.batch_size)
    with torch.no_grad():
        hooked, step = run_pipeline(network, graph, dataset, settings)
    student = Student(
        hooked, tuple(synthetic.images.shape[1:]), tuple(step.sites), tuple(step.layers), tuple(step.plan)
    )
    student.snap_biases()
    logger.info("Bit plan:\n%s", summarise(student.plan))
    return student
