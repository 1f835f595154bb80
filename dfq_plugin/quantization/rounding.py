"""What is done to a student once its bits and ranges are set: its weights go to their grids, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.quantization.analytic_ranges import Moments, Response, derive
from dfq_plugin.quantization.bias_correction import correct_biases
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.ranges import fit_range
from dfq_plugin.quantization.reconstruction import reconstruct
from dfq_plugin.quantization.second_order import round_by_moments
from dfq_plugin.quantization.squant import round_weights
from dfq_plugin.student import Student


@torch.no_grad()
def round_student(
    student: Student,
    graph: OperatorGraph,
    moments: Mapping[str, Moments],
    images: Tensor,
    settings: QuantizeSettings,
    *,
    checkpoint: Path | None = None,
) -> None:
    """Round the weights of a student and correct its biases.

    Args:
        student: its weights still in float, its ranges as images set them.
        graph: the network's operators.
        moments: what BatchNorm layers said about them.
        images: (N, C, H, W), for reconstruction.
        settings: how.
        checkpoint: of the reconstruction, as ``reconstruct`` takes it.

    Raises:
        InputError: reconstruction failed, or the checkpoint is that of another run.
    """
    learned = settings.reconstruction.steps > 0
    fits_outputs = learned or settings.rounding == "gptq"  # and would have its work undone
    wanted = settings.bias_correction == "batchnorm" or (settings.bias_correction == "auto" and not fits_outputs)
    correct = wanted and bool(moments)
    weights = {layer.weight: student.network.get_parameter(layer.weight).clone() for layer in student.layers}
    responses: Mapping[str, Response] = {}
    if correct or settings.activation_range == "batchnorm":
        histograms, responses = derive(student, moments, graph)
        if settings.activation_range == "batchnorm":
            for name, histogram in histograms.items():
                fit_range(student.quantizer(name), histogram)
    if learned:
        reconstruct(student, graph, images, settings.reconstruction, checkpoint)
    elif settings.rounding == "gptq":
        round_by_moments(student, graph, images, settings.batch_size)
    if settings.rounding != "nearest":  # leaves alone what is on the grid
        round_weights(student)
    if correct:
        correct_biases(student, weights, responses)
