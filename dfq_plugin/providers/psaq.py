"""Optimise images until their patches differ to the attention of a vision transformer (PSAQ-ViT).

Paper: Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022, arXiv:2203.02250.
Written from the published formulas; the released sources were not used.

Patches of a photograph, foreground and background, resemble each other more or less; those of noise are all alike.
Minimised over the pixels of each batch, where s are the cosine similarities of the patches in the output of one
self-attention:
    patch_similarity   - sum over attentions of  mean over images of  the differential entropy of s, whose density is
                       estimated with a Gaussian kernel
    classification     1.0 times the cross-entropy of the teacher's logits and the wanted classes
    total_variation    0.05 times the integral of the length of the gradient over the image

Deviations:
    D1  each pair of patches counts once, and none with itself; the paper takes the whole symmetric matrix.
    D2  the class token counts as a patch: nothing in a network's structure tells it from the others. Where attention
        looks through windows, similarities are those within a window, and entropies are averaged over windows.
    D3  of more than 256 patches as many are taken, evenly.
    D4  steps, step size, batch size and the two weights are from memory of the paper, not verified; the bandwidth of
        the kernel and the schedule of the step size are this project's.
    D5  the image's sides have length 1 in the integral, so that its weight means the same for any number of pixels.
    D6  a network that gives no classes is served as well, without the second term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.attention import watch_attention
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.descent import PixelBatch, PixelSettings, PixelStart
from dfq_plugin.synthesis.patch_losses import patch_similarity_loss, total_variation_integral
from dfq_plugin.synthesis.pixels import optimise_pixels
from dfq_plugin.synthesis.schedules import warm_up_and_cosine
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

FROM_MEMORY = "paper (from memory, not verified)"
WARM_UP = 20  # steps, at most a tenth of all


@register_provider
class PSAQ(Provider):
    """Optimise noise into images of balanced classes whose patches a vision transformer tells apart.

    For networks with self-attention, whether or not they have BatchNorm.
    """

    name: ClassVar[str] = "psaq"
    paper: ClassVar[str] = (
        "Patch Similarity Aware Data-Free Quantization for Vision Transformers, ECCV 2022, arXiv:2203.02250"
    )
    needs: ClassVar[str] = "self-attention; no BatchNorm is needed"

    steps: int = cited(500, FROM_MEMORY, "Adam steps per batch.", ge=1)
    learning_rate: float = cited(0.2, FROM_MEMORY, "Step size at the start, in units of normalised intensity.", gt=0)
    batch_size: int = cited(32, FROM_MEMORY, "Images optimised together.", ge=1)
    classification_weight: float = cited(
        1.0, FROM_MEMORY, "Weight of the cross-entropy; 0 gives images without labels.", ge=0
    )
    total_variation_weight: float = cited(0.05, FROM_MEMORY, "Weight of the total variation.", ge=0)
    bandwidth: float = cited(
        0.05, "this project: the paper's is not known", "Width of the kernel, in units of similarity.", ge=0.005, le=1
    )

    def requires(self, facts: ModelFacts) -> None:
        if not facts.attention_operators:
            msg = (
                f"Provider '{self.name}' compares the patches in the output of self-attention, and none was found in "
                "this teacher: it runs no scaled_dot_product_attention, no MultiheadAttention, and no softmax times a "
                "matrix. Choose 'intraq' or 'genie' for a network with BatchNorm; 'fractal' works for any."
            )
            raise UnsupportedModelError(msg)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        like = next(teacher.parameters())
        classified = self.classification_weight > 0 and facts.num_classes > 0

        def start(batch: PixelBatch) -> PixelStart:
            pixels = torch.randn((batch.size, *facts.input_shape), generator=batch.generator)
            first = batch.index * self.batch_size
            labels = balanced_labels(facts.num_classes, first, batch.size, request.seed) if classified else None
            own = None if labels is None else labels.to(like.device)
            return PixelStart(pixels, lambda images: self._terms(teacher, images, own), labels)

        settings = PixelSettings(
            self.name, self.steps, self.batch_size, self.learning_rate, warm_up_and_cosine([self.steps], WARM_UP)
        )
        result = optimise_pixels(settings, request, like, start)
        return SyntheticSet(result.images, result.labels, None, self.provenance(facts, request, curves=result.curves))

    def _terms(self, teacher: nn.Module, images: Tensor, labels: Tensor | None) -> Mapping[str, Tensor]:
        with watch_attention() as seen:
            logits = teacher(images)
        terms = {"patch_similarity": patch_similarity_loss(seen, self.bandwidth)}
        if labels is not None:
            terms["classification"] = self.classification_weight * F.cross_entropy(logits, labels)
        if self.total_variation_weight:
            terms["total_variation"] = self.total_variation_weight * total_variation_integral(images)
        return terms
