"""GDFQ: a generator makes images that the teacher recognises and that suit its BatchNorm layers.

Paper: Generative Low-bitwidth Data Free Quantization, S. Xu, H. Li, B. Zhuang, J. Liu, J. Cao, C. Liang, M. Tan,
ECCV 2020, arXiv:2003.03603. Written from the published procedure; the released sources were not used.

Objective of the generator G, for noise z and labels y drawn anew for every batch, images x = G(z, y), teacher P:
    cross_entropy  mean over images of the cross-entropy between P(x) and y
    batchnorm      0.1 times the squared distance of mean and variance at the inputs of the BatchNorm layers from the
                   stored ones, averaged over channels, then over layers
The student learns from x by cross-entropy with y and by distillation: losses {"cross_entropy": 1, "kl": 1} with
temperature 20 and kl_reduction "mean", SGD of rate 1e-4 (CIFAR-100) or 1e-6 (ImageNet) in the paper.

Deviations from the released code:
    D1  images of any size and any number of channels; at 32 and at 224 pixels the networks are the papers'.
    D2  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from dfq_plugin.batches import Batch
from dfq_plugin.providers.base import cited
from dfq_plugin.providers.online import OnlineProvider
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.generator_source import GeneratorMethod, Objective, Seen
from dfq_plugin.synthesis.generators import LabelGenerator
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.teacher import ModelFacts


@register_provider
class GDFQ(OnlineProvider):
    """Train a generator on the teacher alone: images of each class that suit its BatchNorm layers."""

    name: ClassVar[str] = "gdfq"
    paper: ClassVar[str] = "Generative Low-bitwidth Data Free Quantization, ECCV 2020, arXiv:2003.03603"
    needs: ClassVar[str] = "BatchNorm layers that keep running statistics"

    latent_size: int = cited(100, "released code", "Width of the noise.", ge=1)
    batchnorm_weight: float = cited(0.1, "released code", "Weight of the BatchNorm term.", ge=0)

    def make_method(self, teacher: nn.Module, facts: ModelFacts) -> GeneratorMethod:  # noqa: ARG002
        large = self.is_large(facts)
        generator = LabelGenerator(facts.input_shape, self.latent_size, facts.num_classes, large=large)
        return LabelMethod(generator, self.latent_size, self.batchnorm_weight)


class LabelMethod(GeneratorMethod):
    """A generator of noise and labels, trained by what the teacher says."""

    def __init__(self, generator: LabelGenerator, latent_size: int, batchnorm_weight: float) -> None:
        super().__init__()
        self.generator = generator
        self.latent_size, self.batchnorm_weight = latent_size, batchnorm_weight

    def draw(self, count: int, random: torch.Generator) -> Batch:
        like = next(self.parameters())
        noise = torch.randn(count, self.latent_size, generator=random).to(like)
        labels = torch.randint(self.generator.num_classes, (count,), generator=random).to(like.device)
        return Batch(self.generator(noise, labels), labels)

    def objective(self, seen: Seen) -> Objective:
        cross_entropy = F.cross_entropy(seen.logits, seen.batch.targets)
        batchnorm = self.batchnorm_weight * batchnorm_loss(seen.statistics)
        return Objective({"cross_entropy": cross_entropy, "batchnorm": batchnorm})
