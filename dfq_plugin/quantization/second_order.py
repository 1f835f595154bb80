"""Weights are rounded by the second moments of what they are multiplied with on the images: GPTQ, block by block.

Papers: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023,
arXiv:2210.17323; Frantar et al., "Optimal Brain Compression", NeurIPS 2022, arXiv:2208.11580. Written from the
published procedure; the released sources were not used.

What a layer reads comes through the quantized layers before it. Its moments come from a sample of the places of its
input; each group of a grouped convolution has its own. Below eight bits the step of each channel is the one, of a few
around that of the range search, whose codes leave the least error; NNCF's narrower 8-bit ranges stay.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.progress import track
from dfq_plugin.quantization.blocks import BlockRunner, find_blocks
from dfq_plugin.quantization.gptq import best_codes
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.student import Grid, ProductLayer, Student

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
    uses = Counter(layer.weight for layer in student.layers)
    layers = {layer.operator: layer for layer in student.layers if layer.weight_quantizer and uses[layer.weight] == 1}
    blocks, values = find_blocks(graph, student.network), images
    for block in track(blocks, "Rounding weights"):
        runner = BlockRunner(student.network, block, images[:1])
        known = [name for name in block.operators if graph.node(name).node_type in KNOWN]
        named = {name: layers.get(graph.own_name(name)) for name in known}
        own = {name: _Watched(layer, student) for name, layer in named.items() if layer is not None}
        for part in values.split(batch_size):
            runner(part.clone(), watch={name: watched.see for name, watched in own.items()})
        for watched in own.values():
            watched.round()
        values = torch.cat([runner(part.clone()) for part in values.split(batch_size)])
    logger.info("Rounded the weights of %d layers by second moments of %d images", len(layers), len(images))


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

    def round(self) -> None:
        """Put the weight on its grid, and the grid where it suits the weight."""
        if self._sum is None:
            return
        groups, weight, grid = len(self._sum), self._weight, self._grid
        rows = weight.reshape(groups, len(weight) // groups, -1)
        lines = _Lines.of(grid, rows)
        may_move = grid.step.numel() == len(weight) and grid.high - grid.low < MOST_CODES and not grid.zero_point.any()
        factors = STEPS if may_move else torch.ones(1)
        codes, factor = best_codes(rows / lines.step, self._sum, lines.low, lines.high, factors)
        step = lines.step * factor
        weight.copy_((codes * step).view_as(weight))
        if may_move:
            scale = self._quantizer.scale
            scale.data.copy_((step * self._quantizer.level_high).reshape(scale.shape))


@dataclass(frozen=True)
class _Lines:
    """A grid for the rows of a weight: step and limits, (groups, rows, 1) each."""

    step: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, grid: Grid, rows: Tensor) -> _Lines:
        shape, zero = (*rows.shape[:2], 1), grid.zero_point.to(rows)
        return cls(
            *(
                value.expand(rows[..., 0].numel()).reshape(shape)
                for value in (grid.step, grid.low - zero, grid.high - zero)
            )
        )


def _argument(arguments: tuple[Any, ...], keywords: Mapping[str, Any], at: int) -> Any:  # noqa: ANN401 - of torch's
    return arguments[at] if len(arguments) > at else keywords.get(NAMES[at], DEFAULTS[at])
