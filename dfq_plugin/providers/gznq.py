"""Optimise images of balanced classes until the teacher recognises them and sees its BatchNorm statistics (GZNQ).

Paper: He et al., "Generative Zero-shot Network Quantization", CVPR Workshops 2021, arXiv:2101.08430.
Written from the public description, which is less than the method: images of each category are reconstructed from
BatchNorm statistics, the optimisation of images being regarded as generative modelling; cross-entropy and squared
distances of mean and variance are named as the practice that it builds on. There are no released sources.

Minimised over the pixels of each batch:
    classification    cross-entropy of the teacher's logits and the wanted classes
    batchnorm         squared distance of seen and stored mean and variance, mean over channels, then over layers

Deviations:
    D1  this stands in for the method: whatever the paper adds to that practice is not here, and figures made with this
        provider are figures of the stand-in.
    D2  steps, step size and batch size are those of IntraQ, which compares itself with GZNQ; the paper's are not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.providers.base import GenerationRequest, cited
from dfq_plugin.providers.initial_images import MEANING, InitialImages, initial_images
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.descent import PixelBatch, PixelStart
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.synthesis.pixel_provider import PixelProvider
from dfq_plugin.synthesis.pixels import optimise_pixels
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

AS_INTRAQ = "this project: as in IntraQ; the paper's value is not known"


@register_provider
class GZNQ(PixelProvider):
    """Optimise noise into images of balanced classes by cross-entropy and BatchNorm statistics.

    A stand-in from the public description of GZNQ, and the plain baseline of methods that add to these two terms. On a
    CPU ``steps=200``, ``learning_rate=0.1`` and ``batch_size=16`` are enough for networks on 32x32 images.
    """

    name: ClassVar[str] = "gznq"
    paper: ClassVar[str] = (
        "Generative Zero-shot Network Quantization, CVPR Workshops 2021, arXiv:2101.08430 (public description only)"
    )
    needs: ClassVar[str] = "BatchNorm layers that keep running statistics"

    steps: int = cited(1000, AS_INTRAQ, "Adam steps per batch.", ge=1)
    learning_rate: float = cited(0.5, AS_INTRAQ, "Step size at the start, in units of normalised intensity.", gt=0)
    batch_size: int = cited(256, AS_INTRAQ, "Images optimised together; statistics are matched per batch.", ge=1)
    patience: int = cited(50, AS_INTRAQ, "Steps without improvement before the step size is divided by ten.", ge=0)
    min_learning_rate: float = cited(1e-4, AS_INTRAQ, "Floor below which the step size is not reduced.", gt=0)
    classification_weight: float = cited(
        1.0, "this project: the paper's value is not known", "Weight of the cross-entropy.", gt=0
    )
    batchnorm_weight: float = cited(
        1.0, "this project: the paper's value is not known", "Weight of the BatchNorm loss.", gt=0
    )
    initial_images: InitialImages = cited("gaussian", "this project: as in IntraQ", MEANING)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        network = self.watched_copy(teacher, facts)
        like = next(network.parameters())
        with tap_batchnorm(network, facts) as seen:

            def start(batch: PixelBatch) -> PixelStart:
                pixels = initial_images(self.initial_images, batch.size, facts, batch.generator)
                first = batch.index * self.batch_size
                labels = balanced_labels(facts.num_classes, first, batch.size, request.seed)
                own = labels.to(like.device)

                def objective(pixels: Tensor) -> Mapping[str, Tensor]:
                    return {
                        "classification": self.classification_weight * F.cross_entropy(network(pixels), own),
                        "batchnorm": self.batchnorm_weight * batchnorm_loss(seen),
                    }

                return PixelStart(pixels, objective, labels)

            result = optimise_pixels(self.pixel_settings(), request, like, start)
        return SyntheticSet(result.images, result.labels, None, self.provenance(facts, request, curves=result.curves))
