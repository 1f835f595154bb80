"""Sensitivity: what each quantizer alone does to a network's output, at each number of bits. Needs no real data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from dfq_plugin.progress import track
from dfq_plugin.quantization.bits import set_bits
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
    with _trials(student, sites, images) as loss_of, track(len(sites) * len(widths), "Measuring sensitivity") as bar:
        for site in sites:
            for bits in widths:
                losses[site.name][bits] = loss_of({site.name: bits})
                bar.advance()
    return losses


@torch.no_grad()
def measure_plans(
    student: Student, sites: Sequence[QuantizerSite], plans: Sequence[Mapping[str, int]], images: Tensor
) -> list[float]:
    """Try quantizers all together, the rest in float.

    Args:
        student: its weights still in float; given back as it came.
        sites: the quantizers to try.
        plans: the bits of each of them, by name.
        images: (N, C, H, W).

    Returns:
        For each plan: the squared error of the logits, relative to their squares.
    """
    with _trials(student, sites, images) as loss_of:
        return [loss_of({site.name: plan[site.name] for site in sites}) for plan in plans]


@contextmanager
def _trials(
    student: Student, sites: Sequence[QuantizerSite], images: Tensor
) -> Iterator[Callable[[Mapping[str, int]], float]]:
    """Give a function that measures the loss when some of the quantizers, by name, have so many bits."""
    by_name = {site.name: site for site in sites}
    with in_float(student):
        activations = {site.name: student.quantizer(site.name) for site in sites if site.kind == "activation"}
        with watch(activations) as seen:
            reference = _logits(student, images)

        def loss_of(bits: Mapping[str, int]) -> float:
            with ExitStack() as stack:
                for name, width in bits.items():
                    stack.enter_context(_at(student, by_name[name], width, seen.get(name)))
                error = _logits(student, images) - reference
            return float(error.square().sum() / reference.square().sum())

        yield loss_of


def _logits(student: Student, images: Tensor) -> Tensor:
    device = next(student.parameters()).device
    return torch.cat([student(batch.to(device)) for batch in images.split(BATCH)])


@contextmanager
def _at(student: Student, site: QuantizerSite, bits: int, seen: TensorHistogram | None) -> Iterator[None]:
    """Quantize at one place, with the range that so many bits want there."""
    own = student.quantizer(site.name)
    quantizer = copy.deepcopy(own)
    student.replace_quantizer(site.name, quantizer)
    weights = [
        student.network.get_parameter(each.weight) for each in student.layers if each.weight_quantizer == site.name
    ]
    weights_before = [weight.clone() for weight in weights]
    set_bits(quantizer, site.kind, bits)
    if seen is not None:
        fit_range(quantizer, seen)
        quantizer.enable_quantization()
    for weight in weights:
        fit_scales(quantizer, weight)
        weight.copy_(on_grid(weight, student.grid(site)))
    try:
        yield
    finally:
        student.replace_quantizer(site.name, own)
        for weight, value in zip(weights, weights_before, strict=True):
            weight.copy_(value)
