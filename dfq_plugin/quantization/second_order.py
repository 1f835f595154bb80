"""Weights are rounded by the second moments of what they are multiplied with on the images: GPTQ, block by block.

The method itself, with its papers, is in ``gptq.py``. What a layer reads comes through the quantized layers before it.
Its moments come from a sample of the places of its input; each group of a grouped convolution has its own. Below eight
bits the step of each channel is the one, of a few around that of the range search, whose codes leave the least error;
NNCF's narrower 8-bit ranges stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.progress import track
from dfq_plugin.quantization.blocks import BlockRunner, find_blocks
from dfq_plugin.quantization.gptq import best_codes
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.ranges import set_steps
from dfq_plugin.student import ProductLayer, Student

KNOWN = ("conv2d", "linear")
STEPS = torch.linspace(0.8, 1.2, 9)  # tried, as factors on the step that the range search has found
MOST_CODES = 255  # from the lowest to the highest; weights with so many keep the range that NNCF gave them
PLACES = 128  # of an image's map that a layer's moments are taken from
MOST_UNFOLDED = 2**24  # elements of patches at once
STRIDE, PADDING, DILATION, GROUPS = 3, 4, 5, 6  # arguments of a convolution
DEFAULTS = {STRIDE: 1, PADDING: 0, DILATION: 1, GROUPS: 1}
NAMES = {STRIDE: "stride", PADDING: "padding", DILATION: "dilation", GROUPS: "groups"}

logger = logging.getLogger("nncf.dfq_plugin.quantize")


@torch.no_grad()
def round_by_moments(student: Student, graph: OperatorGraph, images: Tensor, batch_size: int) -> None:
    """Round the weights of a student by GPTQ, in place.

    Left as they are: weights that several layers share, and those of operators other than convolutions in two
    dimensions and linear layers.

    Args:
        student: its weights still in float, its ranges set.
        graph: the network's operators.
        images: (N, C, H, W).
        batch_size: images that are run together.
    """
    layers = {layer.operator: layer for layer in student.unshared_layers()}
    blocks, values, rounded = find_blocks(graph, student.network), images, 0
    image = images[:1].to(next(student.parameters()))
    for block in track(blocks, "Rounding weights"):
        runner = BlockRunner(student.network, block, image)
        known = [name for name in block.operators if graph.node(name).node_type in KNOWN]
        named = {name: layers.get(graph.own_name(name)) for name in known}
        own = {name: _Watched(layer, student) for name, layer in named.items() if layer is not None}
        runner.run_all(values, batch_size, {name: watched.see for name, watched in own.items()})
        rounded += sum(watched.round() for watched in own.values())
        values = runner.run_all(values, batch_size)
    logger.info("Rounded the weights of %d layers by second moments of %d images", rounded, len(images))


class _Watched:
    """A layer, and the second moments of what its weights are multiplied with."""

    def __init__(self, layer: ProductLayer, student: Student) -> None:
        self._weight = student.network.get_parameter(layer.weight)
        self._quantizer = student.quantizer(layer.weight_quantizer or "")
        self._grid = student.grid(student.site(layer.weight_quantizer or ""))
        self._random = torch.Generator().manual_seed(0)
        self._sum: Tensor | None = None

    def see(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Add the moments of one batch."""
        inputs = arguments[0]
        if inputs.ndim == 4 and self._weight.ndim == 4:
            self._see_map(inputs, arguments, keywords)
        elif self._weight.ndim == 2:
            self._add(inputs.reshape(1, -1, inputs.shape[-1]).transpose(1, 2))

    def _see_map(self, inputs: Tensor, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        said = {at: _argument(arguments, keywords, at) for at in DEFAULTS}
        kernel = tuple(self._weight.shape[2:])
        if isinstance(said[PADDING], str):  # rounded without moments
            return
        size = inputs[0].numel() * kernel[0] * kernel[1]
        for part in inputs.split(max(1, MOST_UNFOLDED // size)):
            patches = F.unfold(part, kernel, said[DILATION], said[PADDING], said[STRIDE])  # (N, C * k * k, places)
            chosen = torch.randperm(patches.shape[2], generator=self._random)[:PLACES].to(patches.device)
            sample = patches[:, :, chosen].transpose(0, 1).reshape(said[GROUPS], -1, len(part) * len(chosen))
            self._add(sample)

    def _add(self, columns: Tensor) -> None:
        """Take (groups, inputs, samples) into account."""
        found = columns @ columns.transpose(1, 2)
        self._sum = found if self._sum is None else self._sum + found

    def round(self) -> bool:
        """Put the weight on its grid, and the grid where it suits the weight; False where no moments were seen."""
        if self._sum is None:
            return False
        groups, weight, grid = len(self._sum), self._weight, self._grid
        rows = weight.reshape(groups, len(weight) // groups, -1)
        zero = grid.zero_point.to(rows)
        limits = grid.step, grid.low - zero, grid.high - zero
        step, low, high = (value.expand(len(weight)).reshape(groups, -1, 1) for value in limits)
        may_move = grid.step.numel() == len(weight) and grid.high - grid.low < MOST_CODES and not grid.zero_point.any()
        factors = STEPS if may_move else torch.ones(1)
        codes, factor = best_codes(rows / step, self._sum, low, high, factors)
        weight.copy_((codes * step * factor).view_as(weight))
        if may_move:
            set_steps(self._quantizer, step * factor)
        return True


def _argument(arguments: tuple[Any, ...], keywords: Mapping[str, Any], at: int) -> Any:  # noqa: ANN401 - of torch's
    return arguments[at] if len(arguments) > at else keywords.get(NAMES[at], DEFAULTS[at])
