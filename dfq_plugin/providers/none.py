"""Make no images: weights are rounded by SQuant and ranges follow from BatchNorm statistics, in seconds.

Papers: Guo et al., "SQuant", ICLR 2022, arXiv:2202.07471, and Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721, both of which quantize without an image.
Objective: none. A few fractals stand in where an image is needed all the same: to trace the network, to compare the
exported file with the integer reference, and for ranges of which BatchNorm statistics say nothing.

Deviations: the released SQuant takes its activation ranges from uniform noise, not from BatchNorm as the paper says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts


@register_provider
class NoImages(Provider):
    """Quantize from weights and BatchNorm statistics alone; the images of the set are stand-ins."""

    name: ClassVar[str] = "none"
    paper: ClassVar[str] = "SQuant, ICLR 2022, arXiv:2202.07471; Data-Free Quantization, ICCV 2019, arXiv:1906.04721"
    needs: ClassVar[str] = "nothing; better with BatchNorm"
    revision: ClassVar[int] = Fractal.revision

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        drawn = Fractal()(teacher, facts, request)
        return replace(drawn, provenance=self.provenance(facts, request), informative=False)
