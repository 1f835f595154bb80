"""Weights are rounded by the second moments of what they are multiplied with on the images: GPTQ, block by block.

The method itself, with its papers, is in ``gptq.py``. What a layer reads comes through the quantized layers before it,
within a block too, and is compared with what the same layer reads in float. Its moments come from a sample of the
places of its input, for the first and the last half of the images apart; each group of a grouped convolution has its
own. Below eight bits the step of each channel is the one, of many around that of the range search, whose codes leave
the least error; NNCF's narrower 8-bit ranges stay.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.progress import track
from dfq_plugin.quantization.blocks import BlockRunner, find_blocks
from dfq_plugin.quantization.gptq import SecondMoments, best_codes, best_damping, compensated, damped, moments_of
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.ranges import set_steps
from dfq_plugin.student import ProductLayer, Student

KNOWN = ("conv2d", "linear")
STEPS = torch.linspace(0.6, 1.3, 57)  # tried, as factors on the step that the range search has found
MOST_CODES = 255  # from the lowest to the highest; weights with so many keep the range that NNCF gave them
MOST_TURNS = 4  # of the layers of a block; each is two passes over the images
# Of the images, as they come: each tells how far the other can be believed, the more so where a mixture, which keeps
# its parts in order, has put other kinds of images into each.
HALVES = 2
PLACES = 128  # of an image's map that a layer's moments are taken from
MOST_UNFOLDED = 2**24  # elements of patches at once
MOST_INPUTS = 8192  # of one output; the moments of more take gigabytes, and SQuant rounds the weights
STRIDE, PADDING, DILATION, GROUPS = 3, 4, 5, 6  # arguments of a convolution
DEFAULTS = {STRIDE: 1, PADDING: 0, DILATION: 1, GROUPS: 1}
NAMES = {STRIDE: "stride", PADDING: "padding", DILATION: "dilation", GROUPS: "groups"}

logger = logging.getLogger("nncf.dfq_plugin.quantize")


@torch.no_grad()
def round_by_moments(student: Student, graph: OperatorGraph, images: Tensor, batch_size: int) -> None:
    """Round the weights of a student by GPTQ, in place.

    Left as they are: weights that several layers share, those of operators other than convolutions in two dimensions
    and linear layers, and those of layers with very many inputs.

    Args:
        student: its weights still in float, its ranges set.
        graph: the network's operators.
        images: (N, C, H, W).
        batch_size: images that are run together.
    """
    batch_size = min(batch_size, math.ceil(len(images) / HALVES))
    batches = math.ceil(len(images) / batch_size)
    layers = {layer.operator: layer for layer in student.unshared_layers()}
    reference = _in_float(student)
    exact = rounded = images
    image, count = images[:1].to(next(student.parameters())), 0
    for block in track(find_blocks(graph, student.network), "Rounding weights"):
        named = {name: layers.get(graph.own_name(name)) for name in block.operators if _is_known(graph, name)}
        watched = {name: _Watched(layer, student, batches) for name, layer in named.items() if layer is not None}
        for turn in _turns(list(watched)):
            part = replace(block, operators=block.operators[: block.operators.index(turn[-1]) + 1])
            in_float, quantized = (BlockRunner(each.network, part, image) for each in (reference, student))
            own = [watched[name] for name in turn]
            for before, after in zip(exact.split(batch_size), rounded.split(batch_size), strict=True):
                in_float(before.to(image.device, copy=True), {name: watched[name].see_exact for name in turn})
                quantized(after.to(image.device, copy=True), {name: watched[name].see for name in turn})
            count += sum(each.round() for each in own)
        exact, rounded = (
            BlockRunner(each.network, block, image).run_all(values, batch_size)
            for each, values in ((reference, exact), (student, rounded))
        )
    logger.info("Rounded the weights of %d layers by second moments of %d images", count, len(images))


def _in_float(student: Student) -> Student:
    """A copy that stays in float whatever happens to the student."""
    reference = copy.deepcopy(student)
    for _, quantizer in reference.quantizers():
        quantizer.disable_quantization()
    return reference


def _is_known(graph: OperatorGraph, name: str) -> bool:
    return graph.node(name).node_type in KNOWN


def _turns(names: Sequence[str]) -> list[Sequence[str]]:
    """The layers of a block, in order of execution, in at most ``MOST_TURNS`` parts."""
    size = math.ceil(len(names) / MOST_TURNS)
    return [names[start : start + size] for start in range(0, len(names), size)] if names else []


class _Watched:
    """A layer, and the moments of what its weights are multiplied with: by themselves, and with those in float."""

    def __init__(self, layer: ProductLayer, student: Student, batches: int) -> None:
        self._weight = student.network.get_parameter(layer.weight)
        self._quantizer = student.quantizer(layer.weight_quantizer or "")
        self._grid = student.grid(student.site(layer.weight_quantizer or ""))
        self._batches, self._all_batches = 0, batches
        self._exact: list[Tensor] = []
        self._halves: dict[int, SecondMoments] = {}

    def see_exact(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Keep what the layer reads in float, of one batch, until ``see`` has the same batch quantized."""
        self._exact = list(self._samples(arguments, keywords))

    def see(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Add the moments of one batch."""
        half = HALVES * self._batches // self._all_batches
        for exact, found in zip(self._exact, self._samples(arguments, keywords), strict=True):
            added = moments_of(exact, found)
            self._halves[half] = self._halves[half] + added if half in self._halves else added
        self._exact = []
        self._batches += 1

    def _samples(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Tensor]:
        """What the weights are multiplied with at some places, (groups, inputs, M); the same places in float."""
        inputs = arguments[0]
        if self._weight[0].numel() > MOST_INPUTS:
            return
        if inputs.ndim == 4 and self._weight.ndim == 4:
            yield from self._samples_of_map(inputs, arguments, keywords)
        elif self._weight.ndim == 2:
            yield inputs.reshape(1, -1, inputs.shape[-1]).transpose(1, 2)

    def _samples_of_map(
        self, inputs: Tensor, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Iterator[Tensor]:
        said = {at: _argument(arguments, keywords, at) for at in DEFAULTS}
        kernel = tuple(self._weight.shape[2:])
        if isinstance(said[PADDING], str):  # rounded without moments
            return
        random = torch.Generator().manual_seed(self._batches)
        size = inputs[0].numel() * kernel[0] * kernel[1]
        for part in inputs.split(max(1, MOST_UNFOLDED // size)):
            patches = F.unfold(part, kernel, said[DILATION], said[PADDING], said[STRIDE])  # (N, C * k * k, places)
            chosen = torch.randperm(patches.shape[2], generator=random)[:PLACES].to(patches.device)
            yield patches[:, :, chosen].transpose(0, 1).reshape(said[GROUPS], -1, len(part) * len(chosen))

    def moments(self) -> SecondMoments | None:
        """Of all images; None where none were seen."""
        return reduce(add, self._halves.values()) if self._halves else None

    def round(self) -> bool:
        """Put the weight on its grid, and the grid where it suits the weight; False where no moments were seen."""
        moments = self.moments()
        if moments is None:
            return False
        groups, weight, grid = len(moments.found), self._weight, self._grid
        halves = list(self._halves.values())
        rows = compensated(weight.reshape(groups, len(weight) // groups, -1), halves)
        zero = grid.zero_point.to(rows)
        limits = grid.step, grid.low - zero, grid.high - zero
        step, low, high = (value.expand(len(weight)).reshape(groups, -1, 1) for value in limits)
        may_move = grid.step.numel() == len(weight) and grid.high - grid.low < MOST_CODES and not grid.zero_point.any()
        factors = STEPS if may_move else torch.ones(1)
        damping = best_damping(rows / step, [half.found for half in halves], low, high)
        codes, factor = best_codes(rows / step, damped(moments.found, damping), low, high, factors)
        weight.copy_((codes * step * factor).view_as(weight))
        if may_move:
            set_steps(self._quantizer, step * factor)
        return True


def _argument(arguments: tuple[Any, ...], keywords: Mapping[str, Any], at: int) -> Any:  # noqa: ANN401 - of torch's
    return arguments[at] if len(arguments) > at else keywords.get(NAMES[at], DEFAULTS[at])
