"""Sensitivity: what each quantizer alone does to a network's output, at each number of bits. Needs no real data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dfq_plugin.progress import track
from dfq_plugin.quantization.ranges import TensorHistogram, fit_range, fit_scales, watch
from dfq_plugin.quantization.squant import on_grid
from dfq_plugin.quantization.switching import in_float
from dfq_plugin.student import QuantizerSite, Student

BATCH = 32  # images run at once


@torch.no_grad()
def measure_losses(
    student: Student, sites: Sequence[QuantizerSite], widths: Sequence[int], images: Tensor
) -> dict[str, dict[int, float]]:
    """Try quantizers one at a time, everything else in float.

    Args:
        student: its weights still in float; given back as it came.
        sites: the quantizers to try.
        widths: the numbers of bits to try.
        images: (N, C, H, W).

    Returns:
        By quantizer and bits: the squared error of the logits, relative to their squares.
    """
    losses: dict[str, dict[int, float]] = {site.name: {} for site in sites}
    with in_float(student):
        activations = {site.name: student.quantizer(site.name) for site in sites if site.kind == "activation"}
        with watch(activations) as seen:
            reference = _logits(student, images)
        with track(len(sites) * len(widths), "Measuring sensitivity") as bar:
            for site in sites:
                for bits in widths:
                    with _at(student, site, bits, seen.get(site.name)):
                        error = _logits(student, images) - reference
                    losses[site.name][bits] = float(error.square().sum() / reference.square().sum())
                    bar.advance()
    return losses


def _logits(student: Student, images: Tensor) -> Tensor:
    device = next(student.parameters()).device
    return torch.cat([student(batch.to(device)) for batch in images.split(BATCH)])


@contextmanager
def _at(student: Student, site: QuantizerSite, bits: int, seen: TensorHistogram | None) -> Iterator[None]:
    """Quantize at one place, with the range that so many bits want there."""
    quantizer = student.quantizer(site.name)
    bits_before = quantizer.num_bits
    ranges_before = [(each, each.clone()) for each in quantizer.get_trainable_params().values()]
    weights = [
        student.network.get_parameter(each.weight) for each in student.layers if each.weight_quantizer == site.name
    ]
    weights_before = [(each, each.clone()) for each in weights]
    quantizer.num_bits = bits
    if seen is not None:
        fit_range(quantizer, seen)
        quantizer.enable_quantization()
    for weight in weights:
        fit_scales(quantizer, weight)
        weight.copy_(on_grid(weight, student.grid(site)))
    try:
        yield
    finally:
        quantizer.disable_quantization()
        quantizer.num_bits = bits_before
        for tensor, value in (*ranges_before, *weights_before):
            tensor.copy_(value)
