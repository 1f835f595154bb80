"""AdaDFQ: a generator plays against the student for images that it can still learn from, neither trivial nor hopeless.

Paper: Adaptive Data-Free Quantization, B. Qian, Y. Wang, R. Hong, M. Wang, CVPR 2023, arXiv:2303.06869. Written from
the published procedure; the released sources were not used.

Objective of the generator G, for noise z and labels y drawn anew for every batch, images x = G(z, y), teacher P and
student Q, with H' the entropy of softmax(P(x) - Q(x)) on a scale from the least in the batch to that of a uniform one
(1 - H' is the adaptability of an image):
    margin     mean of max(lambda_l - H', 0) + mean of max(H' - lambda_u, 0)
    balance    beta * (alpha_ds * CE(P(x) - Q(x), y) + alpha_as * CE(P(x) + Q(x), y))
    batchnorm  gamma times the squared distance of mean and variance at the inputs of the BatchNorm layers from the
               stored ones, averaged over channels, then over layers
The student learns from x by making that entropy large, losses {"disagreement": 1} with temperature 20 (CIFAR) or 5
(ImageNet), SGD of rate 1e-4 (CIFAR) or 1e-5 (ImageNet) in the paper.

Deviations from the released code:
    D1  any batch size; the code fails for every one but 16.
    D2  images of any size and any number of channels; at 32 and at 224 pixels the networks are the papers'.
    D3  a fixed set is drawn from a generator that has played against a quantized copy of the teacher with the papers'
        quantizer, whose weights do not learn; the code makes no fixed sets.
    D4  the scale of the entropy is at least 1e-8, so that a student that equals the teacher divides nothing by zero.
    D5  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from typing import ClassVar

import pydantic
from torch import nn

from dfq_plugin.batches import Batch
from dfq_plugin.errors import ConfigError
from dfq_plugin.providers.base import cited
from dfq_plugin.providers.gdfq import LabelMethod
from dfq_plugin.providers.online import OnlineProvider
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.adaptability import balance_loss, margin_loss, normalised_entropy
from dfq_plugin.synthesis.generator_source import GeneratorMethod, Objective, Seen
from dfq_plugin.synthesis.generators import LabelGenerator
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.synthesis.quick_student import quick_student
from dfq_plugin.teacher import ModelFacts


@register_provider
class AdaDFQ(OnlineProvider):
    """Train a generator against the student: images on which they disagree, but not beyond what it can learn."""

    name: ClassVar[str] = "adadfq"
    paper: ClassVar[str] = "Adaptive Data-Free Quantization, CVPR 2023, arXiv:2303.06869"
    needs: ClassVar[str] = "BatchNorm layers that keep running statistics"

    latent_size: int = cited(100, "released code", "Width of the noise.", ge=1)
    alpha_ds: float = cited(0.2, "paper and released code", "Weight of the cross-entropy of disagreement.", ge=0)
    alpha_as: float = cited(0.1, "paper and released code", "Weight of the cross-entropy of agreement.", ge=0)
    lambda_l: float = cited(
        0.1,
        "released code (3 bits; 0.3 for ImageNet at 4 and 5 bits, 0.4 for ResNet-50 at 3)",
        "Smallest normalised entropy of disagreement without a penalty.",
        ge=0,
        le=1,
    )
    lambda_u: float = cited(
        0.8, "paper and released code", "Largest normalised entropy of disagreement without a penalty.", ge=0, le=1
    )
    beta: float = cited(
        1.0,
        "released code (the supplement finds 0.8 best for ResNet-18 at 5 bits)",
        "Weight of the balance term.",
        ge=0,
    )
    gamma: float = cited(
        1.0,
        "released code (the supplement finds 2.0 best for MobileNetV2 at 4 bits)",
        "Weight of the BatchNorm term.",
        ge=0,
    )
    student_bits: int = cited(
        4,
        "this project: the middle of the paper's 3, 4 and 5",
        "Bits of the quantized copy that a fixed set is made against.",
        ge=2,
        le=8,
    )

    @pydantic.model_validator(mode="after")
    def _check_margins(self) -> AdaDFQ:
        if self.lambda_l > self.lambda_u:
            msg = f"lambda_l ({self.lambda_l:g}) is above lambda_u ({self.lambda_u:g}); no entropy satisfies both"
            raise ConfigError(msg)
        return self

    def make_method(self, teacher: nn.Module, facts: ModelFacts) -> GeneratorMethod:  # noqa: ARG002
        large = self.is_large(facts)
        generator = LabelGenerator(facts.input_shape, self.latent_size, facts.num_classes, large=large)
        return _Game(generator, self)

    def make_student(self, teacher: nn.Module, facts: ModelFacts, batch: Batch) -> nn.Module:
        return quick_student(teacher, facts, self.student_bits, batch.images)


class _Game(LabelMethod):
    """A generator of noise and labels, trained by where teacher and student differ."""

    def __init__(self, generator: LabelGenerator, settings: AdaDFQ) -> None:
        super().__init__(generator, settings.latent_size, settings.gamma)
        self.settings = settings

    def objective(self, seen: Seen) -> Objective:
        settings = self.settings
        student_logits = seen.student(seen.batch.images)
        normalised = normalised_entropy(seen.logits - student_logits)
        alphas = settings.alpha_ds, settings.alpha_as
        balance = balance_loss(seen.logits, student_logits, seen.batch.targets, *alphas)
        terms = {
            "margin": margin_loss(normalised, settings.lambda_l, settings.lambda_u),
            "balance": settings.beta * balance,
            "batchnorm": settings.gamma * batchnorm_loss(seen.statistics),
        }
        return Objective(terms, watched={"adaptability": 1 - normalised.mean()})
