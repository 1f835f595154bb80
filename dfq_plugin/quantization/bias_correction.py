"""Analytic bias correction: take back what rounding the weights does to the mean of each layer's output.

Paper: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
arXiv:1906.04721, section 4.2. Written from the published procedure; the released sources were not used.

Objective: with e the error of the rounded weights and E[x] the mean of the layer's input, the output moves by e E[x] on
average; the bias is moved back by as much. E[x] follows from BatchNorm statistics, so no image is needed.

Deviation: E[x] is known for each place of the feature map, so that the zeros of a convolution's padding are counted as
zeros; the correction is the mean over all places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from dfq_plugin.quantization.analytic_ranges import Response
from dfq_plugin.student import Student


@torch.no_grad()
def correct_biases(
    student: Student, float_weights: Mapping[str, Tensor], responses: Mapping[str, Response]
) -> list[str]:
    """Correct the bias of every quantized layer whose mean input is known.

    Args:
        student: its weights rounded or about to be rounded by its quantizers.
        float_weights: the weights as they were, by the names that ``student.layers`` gives them.
        responses: from ``derive``.

    Returns:
        The corrected layers.
    """
    uses = Counter(layer.bias for layer in student.layers)
    corrected = []
    for layer in student.layers:
        response = responses.get(layer.operator)
        if layer.bias is None or uses[layer.bias] > 1 or layer.weight_quantizer is None or response is None:
            continue
        weight = student.network.get_parameter(layer.weight)
        error = student.quantizer(layer.weight_quantizer)(weight) - float_weights[layer.weight]
        moved = response(error)
        channels = 1 if weight.ndim > 2 else -1  # of tokens, (1, tokens, channels), they come last
        student.network.get_parameter(layer.bias).sub_(moved.movedim(channels, 0).flatten(1).mean(dim=1))
        corrected.append(layer.operator)
    return corrected
