"""GPTQ: weights are rounded one input at a time, and those still to come make up for the error of those before.

Papers: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023,
arXiv:2210.17323; Frantar et al., "Optimal Brain Compression", NeurIPS 2022, arXiv:2208.11580; Li et al., "GPTAQ:
Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025, arXiv:2504.02692 (the output in float is
the aim, from quantized input). Written from the published procedures; the released sources were not used.

With H the second moments of the inputs of a layer, (q - w) H (q - w)^T is made small for each row w of its weights and
its codes q: input by input, the error of the one that is rounded, divided by its conditional variance, is taken from
the others. Before, the weights go some way towards those whose output for the quantized input is nearest to the output
in float, so that a layer makes up for the errors of those before it.

Deviations:
    D1  GPTAQ takes the errors of the input into the step of each weight; here the weights are fitted anew, by ridge
        regression, before any is rounded, with the ridge, and as far, as serves the other half of the images best.
    D2  Errors in its inputs draw a regression towards zero, and a student each of whose layers says a little less is
        unsure in the end: every row is scaled until its output rises as far as that in float does.
    D3  Inputs with the largest moments come first, as the released code can do.
    D4  Afterwards single codes move where that helps, for a fixed number of sweeps.
    D5  Many steps are tried for each row, and the best is taken.
    D6  Damping is chosen layer by layer: of several, the one with which codes that are fitted to one half of the images
        have the least error on the other half. What images of one kind say of a deep layer is not true of others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean diagonal, as published
DAMPINGS = (DAMPING, 0.03, 0.1, 0.3, 1.0)
MOST_ROWS = 128  # that damping is chosen by
TOGETHER = 128  # inputs whose errors are passed on in one product, as published
SWEEPS = 2
MOST_TRIED = 2**22  # weights of all candidates at once; more would only take memory
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the mean diagonal
WAYS = (0.0, 0.25, 0.5, 0.75, 1.0)  # how far towards the fitted weights
LEAST_GAIN, LARGEST_GAIN = 0.8, 1.25  # more than this is chance, not what all images have in common


@dataclass(frozen=True)
class SecondMoments:
    """Sums of products of what a layer reads, over the same places of the same images, (groups, inputs, inputs).

    Attributes:
        found: of its inputs as they are, X X^T.
        cross: of the inputs in float, along the rows, with those as they are, X_float X^T.
        exact: of the inputs in float, X_float X_float^T.
    """

    found: Tensor
    cross: Tensor
    exact: Tensor

    def __add__(self, other: SecondMoments) -> SecondMoments:
        return SecondMoments(self.found + other.found, self.cross + other.cross, self.exact + other.exact)


def moments_of(exact: Tensor, found: Tensor) -> SecondMoments:
    """The moments of inputs in float and as they are, (groups, inputs, places) both."""
    cross, squares = exact @ found.transpose(1, 2), exact @ exact.transpose(1, 2)
    return SecondMoments(found @ found.transpose(1, 2), cross, squares)


def compensated(weights: Tensor, halves: Sequence[SecondMoments]) -> Tensor:
    """Weights that make up for part of what is wrong with their inputs.

    Args:
        weights: (groups, out, inputs).
        halves: moments of the inputs on the two halves of the images.

    Returns:
        (groups, out, inputs), on the way from the weights to W X_float X^T (X X^T)^-1, the ridge regression of the
        layer's output in float on its inputs, which is drawn towards the weights themselves; then scaled, row by row.
        The ridge and the way are those with which weights that are fitted to one half come nearest to the output in
        float on the other. The weights as they are where there are not two halves.
    """
    if len(halves) < 2:
        return weights
    first, second = halves
    errors: dict[tuple[float, float], float] = defaultdict(float)  # a parabola in the way, 0 for the weights themselves
    for taught, other in ((first, second), (second, first)):
        wanted, missing = _divisor(_power(weights, other.exact).sum()), weights @ (other.found - other.cross)
        for ridge in RIDGES:
            change = _fitted(weights, taught, ridge) - weights
            slope, bend = 2 * (missing * change).sum() / wanted, _power(change, other.found).sum() / wanted
            for way in WAYS:
                errors[ridge, way] += float(way * slope + way**2 * bend)
    ridge, way = min(errors, key=errors.__getitem__)
    whole = first + second
    fitted = weights.lerp(_fitted(weights, whole, ridge), way)
    return fitted / _gain(fitted, weights, whole)


def _fitted(weights: Tensor, moments: SecondMoments, ridge: float) -> Tensor:
    """Weights whose output for the inputs as they are is nearest to the output in float."""
    found, tiny = moments.found, torch.finfo(moments.found.dtype).tiny
    raised = ridge * found.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(tiny / ridge)
    drawn = torch.diag_embed(raised.unsqueeze(1).expand(-1, found.shape[1]))
    aimed = weights.double() @ (moments.cross + drawn).double()
    fitted: Tensor = torch.linalg.solve((found + drawn).double(), aimed, left=False)
    return fitted.to(weights)


def _power(rows: Tensor, moments: Tensor) -> Tensor:
    """The squares of what rows give for inputs of these moments, summed over all places, (groups, out)."""
    return ((rows @ moments) * rows).sum(dim=2)


def _divisor(value: Tensor) -> Tensor:
    """A square, or a sum of them, that can be divided by."""
    return value.clamp_min(torch.finfo(value.dtype).tiny)


def _gain(fitted: Tensor, weights: Tensor, moments: SecondMoments) -> Tensor:
    """How far the output of each row rises where the output in float rises by one, (groups, out, 1)."""
    met = ((fitted @ moments.cross.transpose(1, 2)) * weights).sum(dim=2)
    gain = met / _power(weights, moments.exact)
    return gain.nan_to_num(1.0, 1.0, 1.0).clamp(LEAST_GAIN, LARGEST_GAIN).unsqueeze(2)


def best_codes(scaled: Tensor, moments: Tensor, low: Tensor, high: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to the codes, and the step, of the least error on the inputs.

    Args:
        scaled: weights divided by their step, (groups, out, inputs).
        moments: damped second moments of the inputs, (groups, inputs, inputs).
        low: smallest code, (groups, out, 1).
        high: largest code, likewise.
        factors: what the step is multiplied with, (candidates,).

    Returns:
        Codes as floats, (groups, out, inputs), and the factor of each row, (groups, out, 1).
    """
    elimination, at_once = elimination_of(moments), max(1, MOST_TRIED // scaled.numel())
    codes, factor = torch.zeros_like(scaled), torch.ones_like(low)
    least = torch.full_like(low, math.inf)
    for tried in factors.to(scaled).split(at_once):
        found, own, error = _best_of(scaled, moments, elimination, (low, high), tried)
        better = error < least
        codes, factor = torch.where(better, found, codes), torch.where(better, own, factor)
        least = torch.where(better, error, least)
    return refined(codes, scaled / factor, moments, low, high), factor


def _best_of(
    scaled: Tensor, moments: Tensor, elimination: Elimination, edges: tuple[Tensor, Tensor], factors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, factor and error of each row: the best of these factors, all tried at once."""
    groups, out, inputs = scaled.shape
    candidates = (scaled.unsqueeze(2) / factors.reshape(1, 1, -1, 1)).reshape(groups, -1, inputs)
    low, high = (edge.expand(groups, out, len(factors)).reshape(groups, -1, 1) for edge in edges)
    codes = gptq_codes(candidates, elimination, low, high)
    errors = _power(codes - candidates, moments).reshape(groups, out, -1) * factors.square()
    error, chosen = errors.min(dim=2, keepdim=True)
    picked = chosen.unsqueeze(3).expand(-1, -1, -1, inputs)
    return codes.reshape(groups, out, -1, inputs).gather(2, picked).squeeze(2), factors[chosen], error


def best_damping(scaled: Tensor, halves: Sequence[Tensor], low: Tensor, high: Tensor) -> float:
    """The damping with which codes that are fitted to one half of the images have the least error on the other.

    Args:
        scaled: as in ``best_codes``, like the others.
        halves: moments of the two halves; the published damping where there are not two.
        low: smallest code.
        high: largest code.
    """
    if len(halves) < 2:
        return DAMPING
    some = slice(None, None, math.ceil(scaled.shape[1] / MOST_ROWS))
    weights, edges = scaled[:, some], (low[:, some], high[:, some])

    def error(damping: float, taught: Tensor, other: Tensor) -> float:
        gap = gptq_codes(weights, elimination_of(damped(taught, damping)), *edges) - weights
        return float(_power(gap, other).sum() / _divisor(_power(weights, other).sum()))

    first, second = halves
    return min(DAMPINGS, key=lambda damping: error(damping, first, second) + error(damping, second, first))


def damped(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Moments on the scale of their mean diagonal, which is raised, so that they can be inverted.

    Args:
        moments: of the inputs, (groups, inputs, inputs).
        damping: how far, in units of the mean diagonal.
    """
    diagonal = moments.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(dim=1, keepdim=True).clamp_min(torch.finfo(moments.dtype).tiny)
    found = moments / mean.unsqueeze(2)
    found.diagonal(dim1=1, dim2=2).add_(damping)
    return found


@dataclass(frozen=True)
class Elimination:
    """In which order inputs are rounded, (groups, inputs), and what that takes from those still to come.

    Attributes:
        order: those with the largest moments first.
        factor: the upper Cholesky factor of the inverse moments, in that order, (groups, inputs, inputs).
    """

    order: Tensor
    factor: Tensor


def elimination_of(moments: Tensor) -> Elimination:
    """What GPTQ needs of damped second moments, (groups, inputs, inputs)."""
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    ordered = moments.gather(1, order.unsqueeze(2).expand_as(moments)).gather(2, order.unsqueeze(1).expand_as(moments))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered.double()))
    return Elimination(order, torch.linalg.cholesky(inverse, upper=True).to(moments))


def gptq_codes(scaled: Tensor, elimination: Elimination, low: Tensor, high: Tensor) -> Tensor:
    """Round weights to integer codes by GPTQ.

    Args:
        scaled: weights divided by their step, (groups, out, inputs).
        elimination: of the damped second moments of the inputs.
        low: smallest code, (groups, out, 1).
        high: largest code, likewise.

    Returns:
        Codes as floats, (groups, out, inputs).
    """
    count, factor = scaled.shape[2], elimination.factor
    order = elimination.order.unsqueeze(1).expand_as(scaled)
    left = scaled.gather(2, order)
    codes, low, high = torch.empty_like(left), low.squeeze(2), high.squeeze(2)
    for start in range(0, count, TOGETHER):
        end = min(start + TOGETHER, count)
        errors = torch.empty_like(left[:, :, start:end])
        for at in range(start, end):
            codes[:, :, at] = left[:, :, at].round().clamp(low, high)
            error = (left[:, :, at] - codes[:, :, at]) / factor[:, at, at].unsqueeze(1)
            left[:, :, at:end] -= error.unsqueeze(2) * factor[:, at, at:end].unsqueeze(1)
            errors[:, :, at - start] = error
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return torch.empty_like(codes).scatter_(2, order, codes)


def refined(codes: Tensor, scaled: Tensor, moments: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Move single codes to where the error is least, one input after the other; the error never grows.

    Args:
        codes: (groups, out, inputs).
        scaled: as in ``gptq_codes``, like the others.
        moments: damped.
        low: smallest code.
        high: largest code.
    """
    codes, low, high = codes.clone(), low.squeeze(2), high.squeeze(2)
    slope = (codes - scaled) @ moments  # half of it
    for _ in range(SWEEPS):
        for at in range(codes.shape[2]):
            own = codes[:, :, at]
            best = (own - slope[:, :, at] / moments[:, at, at].unsqueeze(1)).round().clamp(low, high)
            slope += (best - own).unsqueeze(2) * moments[:, at].unsqueeze(1)
            codes[:, :, at] = best
    return codes
