"""Striped noise: every row of an image has one value."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts


class AcmeNoise(Provider):
    """Draw rows of one value each."""

    name: ClassVar[str] = "acme_noise"
    paper: ClassVar[str] = "Acme et al., Stripes, 2024"
    needs: ClassVar[str] = "nothing"

    contrast: float = cited(1.0, "Acme, Table 1", "Standard deviation of the rows.", gt=0)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        channels, height, width = facts.input_shape
        random = torch.Generator().manual_seed(request.seed)
        rows = torch.randn(request.num_samples, channels, height, 1, generator=random) * self.contrast
        images = rows.expand(-1, -1, -1, width).contiguous()
        return SyntheticSet(images, labels=None, soft_labels=None, provenance=self.provenance(facts, request))
