"""How near images come to the BatchNorm statistics of the teacher's training, layer by layer, whatever made them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfq_plugin.images import LabelledImages
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics, tap_batchnorm
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher

IMAGES = 64  # of each kind at most: their moments hardly change with more
BATCH = 16  # images a forward pass; bounds memory


@dataclass(frozen=True)
class LayerMatch:
    """Distances of one BatchNorm layer; see ``distances`` for the unit.

    Attributes:
        layer: its dotted name.
        noise: of standard normal pixels.
        synthetic: of the synthetic set.
        real: of real images; None where there are none.
    """

    layer: str
    noise: float
    synthetic: float
    real: float | None = None


def match_batchnorm(
    teacher: Teacher, synthetic: SyntheticSet, evidence: LabelledImages | None = None
) -> tuple[LayerMatch, ...]:
    """Compare what every BatchNorm layer sees with what it stored in training, on at most 64 images of each kind.

    Args:
        teacher: the float network with its facts.
        synthetic: the synthetic set.
        evidence: images that quality is measured on; real ones show how near those come.

    Returns:
        One entry for each run of a layer, in execution order; empty when no layer keeps statistics.
    """
    if not teacher.facts.batchnorm_layers:
        return ()
    noise = torch.randn(synthetic.images[:IMAGES].shape, generator=torch.Generator().manual_seed(0))
    kinds = {"noise": noise, "synthetic": synthetic.images[:IMAGES]}
    if evidence is not None and evidence.is_real:
        kinds["real"] = evidence.images[:IMAGES]
    found = {kind: distances(teacher, images) for kind, images in kinds.items()}
    rows = zip(*(found[kind] for kind in kinds), strict=True)
    return tuple(
        LayerMatch(cells[0][0], **{kind: value for kind, (_, value) in zip(kinds, cells, strict=True)})
        for cells in rows
    )


def distances(teacher: Teacher, images: Tensor) -> list[tuple[str, float]]:
    """Wasserstein-2 distance of the normal distributions with the moments seen and stored, in stored deviations.

    For each channel sqrt((m - mu)^2 + (d - s)^2) / s, with m and d the mean and deviation over all images and places,
    mu and s the stored ones; averaged over the channels of a layer.

    Args:
        teacher: the float network, in eval mode.
        images: (N, C, H, W).

    Returns:
        ``(layer, distance)`` for each run of a layer, in execution order.
    """
    sums: list[_Moments] = []
    like = next(teacher.network.parameters())
    with torch.no_grad(), tap_batchnorm(teacher.network, teacher.facts) as seen:
        for batch in images.split(BATCH):
            teacher.network(batch.to(like))
            sums = sums or [_Moments(entry) for entry in seen]
            for total, entry in zip(sums, seen, strict=True):
                total.add(entry)
    return [(total.first.name, total.distance()) for total in sums]


class _Moments:
    """Mean and variance over several batches, from those of each."""

    def __init__(self, first: BatchNormStatistics) -> None:
        self.first = first
        self._count = 0
        self._sum = torch.zeros_like(first.stored_mean, dtype=torch.float64)
        self._squares = self._sum.clone()

    def add(self, entry: BatchNormStatistics) -> None:
        mean, variance = entry.mean.double(), entry.variance.double()
        self._count += entry.count
        self._sum += entry.count * mean
        self._squares += entry.count * (variance + mean.square())

    def distance(self) -> float:
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean.square()).clamp(min=0).sqrt()
        stored = (self.first.stored_variance.double() + self.first.eps).sqrt()
        gaps = torch.hypot(mean - self.first.stored_mean.double(), deviation - stored)
        return (gaps / stored).mean().item()
