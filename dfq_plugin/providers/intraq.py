"""Optimise labelled images that match BatchNorm statistics and stay diverse within their class (IntraQ).

Paper: Zhong et al., "IntraQ: Learning Synthetic Images with Intra-Class Heterogeneity for Zero-Shot Network
Quantization", CVPR 2022, arXiv:2111.09136.
Written from the published formulas; the authors' code, which carries no licence, was not opened.

Minimised over the pixels of each batch, all weights 1:
    batchnorm          squared distance of seen and stored mean and variance, mean over channels, then over layers
    soft_inception     mean over images of (p_own - t)^2, where t is 1 with probability 1/2, else uniform in [eps, 1]
    marginal_distance  mean of max(lambda_l - d, 0) + max(d - lambda_u, 0), where d is the cosine distance between the
                       pooled feature of an image and the centre of its class over all earlier batches
with local object reinforcement (LOR): with probability 1/2 a step sees the whole batch through random crops, one per
image, of at least the fraction eta of its area, enlarged to full size and mirrored at random; the supplement also tries
turned crops.

Deviations from the released code:
    D1  any number of images, whose batches follow each other in one run; the code makes four groups of five batches of
        256 that read each other's files. The class centres are the same, unless parallel_batches lets the batches of a
        group do without those of each other.
    D2  random numbers are this package's own, so that seeds do not give the images of the code.
Labels are uniformly random as in the code, hence not balanced, and t is drawn once per image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal

import pydantic
import torch
from torch import Tensor, nn

from dfq_plugin.augment import MIRROR_PROBABILITY, crop_and_resize, draw_crops
from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, cited
from dfq_plugin.providers.initial_images import MEANING, InitialImages, initial_images
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics, tap_batchnorm
from dfq_plugin.synthesis.class_centres import ClassCentres
from dfq_plugin.synthesis.descent import PixelBatch, PixelStart, fast_layout
from dfq_plugin.synthesis.losses import batchnorm_loss, marginal_distance_loss, soft_inception_loss
from dfq_plugin.synthesis.pixel_provider import PixelProvider
from dfq_plugin.synthesis.pixels import optimise_pixels
from dfq_plugin.synthesis.presets import fill_from_preset
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, pooled_features

PRESETS: Final[dict[str, dict[str, float]]] = {
    "paper": {"eps": 0.9, "lambda_l": 0.3, "lambda_u": 0.8, "eta": 0.5},
    "released_imagenet": {"eps": 1.0, "lambda_l": 0.0, "lambda_u": 2.0, "eta": 0.5},
    "cifar10": {"eps": 0.95, "lambda_l": 0.05, "lambda_u": 0.8, "eta": 0.5},
    "cifar100": {"eps": 0.6, "lambda_l": 0.02, "lambda_u": 1.0, "eta": 0.5},
}
PRESET_SOURCE = "the preset: 'paper' is from memory of the paper, not verified; the others are from the released code"


@register_provider
class IntraQ(PixelProvider):
    """Optimise noise into images of random classes whose features keep their distance within a class.

    The presets fill ``eps``, ``lambda_l``, ``lambda_u`` and ``eta`` where they are not given. "released_imagenet" is
    what the authors' script for ImageNet does: its margins can never be violated and its targets are all 1, so that of
    the three parts of the method only LOR is active.
    """

    name: ClassVar[str] = "intraq"
    paper: ClassVar[str] = (
        "IntraQ: Learning Synthetic Images with Intra-Class Heterogeneity for Zero-Shot Network Quantization, "
        "CVPR 2022, arXiv:2111.09136"
    )
    needs: ClassVar[str] = (
        "BatchNorm layers that keep running statistics; with use_mdc also a Linear or 1x1 convolution as classifier"
    )

    steps: int = cited(1000, "released code", "Adam steps per batch.", ge=1)
    learning_rate: float = cited(
        0.5, "released code", "Step size at the start, in units of normalised intensity.", gt=0
    )
    batch_size: int = cited(256, "released code", "Images optimised together; statistics are matched per batch.", ge=1)
    patience: int = cited(
        50, "released code", "Steps without improvement before the step size is divided by ten.", ge=0
    )
    min_learning_rate: float = cited(1e-4, "released code", "Floor below which the step size is not reduced.", gt=0)
    preset: Literal["paper", "released_imagenet", "cifar10", "cifar100"] = cited(
        "paper", "this project: the method as published", "Where eps, lambda_l, lambda_u and eta come from."
    )
    eps: float = cited(None, PRESET_SOURCE, "Smallest soft target of the own class; 1 makes all targets 1.", ge=0, le=1)
    lambda_l: float = cited(
        None, PRESET_SOURCE, "Smallest cosine distance from the class centre without a penalty.", ge=0, le=2
    )
    lambda_u: float = cited(
        None, PRESET_SOURCE, "Largest cosine distance from the class centre without a penalty.", ge=0, le=2
    )
    eta: float = cited(None, PRESET_SOURCE, "Smallest fraction of the image's area that a crop covers.", gt=0, le=1)
    augment_probability: float = cited(
        0.5, "paper and released code", "Chance that a step sees the batch through crops.", ge=0, le=1
    )
    use_lor: bool = cited(default=True, source="paper", description="Local object reinforcement: see through crops.")
    use_flip: bool = cited(
        default=True,
        source="released code (the paper's supplement reports slightly better results without)",
        description="Mirror crops left to right at random.",
    )
    rotation: float = cited(
        0.0,
        "paper (its supplement finds turned crops slightly worse and gives no angle)",
        "Largest angle, in degrees, by which crops are turned.",
        ge=0,
        le=180,
    )
    use_mdc: bool = cited(default=True, source="paper", description="Marginal distance constraint on features.")
    parallel_batches: int = cited(
        1,
        "paper (each batch sees the centres of all before it; the released code ran four groups of batches)",
        "Batches in a row that see the same class centres, so that as many processes can make them at once.",
        ge=1,
    )
    initial_images: InitialImages = cited("gaussian", "paper", MEANING)
    use_soft_inception: bool = cited(
        default=True,
        source="paper",
        description="Give every image a class; without it the images have no labels.",
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:  # noqa: ANN401 - anything can be handed in; pydantic checks it
        return fill_from_preset(values, PRESETS, "paper")

    @pydantic.model_validator(mode="after")
    def _check_margins(self) -> IntraQ:
        if self.lambda_l > self.lambda_u:
            msg = f"lambda_l ({self.lambda_l:g}) is above lambda_u ({self.lambda_u:g}); no distance satisfies both"
            raise ConfigError(msg)
        return self

    def requires(self, facts: ModelFacts) -> None:
        super().requires(facts)
        if self.use_mdc and facts.classifier is None:
            msg = (
                "Provider 'intraq' reads the pooled feature at the input of a Linear or 1x1 convolution that gives the "
                "classes, and this teacher has none; set use_mdc to false."
            )
            raise UnsupportedModelError(msg)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        network = self.watched_copy(teacher, facts)
        with ExitStack() as stack:
            seen = stack.enter_context(tap_batchnorm(network, facts))
            features = stack.enter_context(pooled_features(network, facts)) if self.use_mdc else None
            synthesis = _Synthesis(self, network, facts, seen, features)
            settings = replace(self.pixel_settings(), together=self.parallel_batches)
            finish = synthesis.finish if self.use_mdc else None
            result = optimise_pixels(settings, request, synthesis.like, synthesis.start, finish)
        labels = result.labels if self.use_soft_inception else None
        return SyntheticSet(result.images, labels, None, self.provenance(facts, request, curves=result.curves))


class _Synthesis:
    """One generation: what it reads from the teacher, and the class centres as they grow."""

    def __init__(
        self,
        settings: IntraQ,
        teacher: nn.Module,
        facts: ModelFacts,
        seen: list[BatchNormStatistics],
        features: Callable[[], Tensor] | None,
    ) -> None:
        self.like = next(teacher.parameters())
        self._settings, self._teacher, self._facts = settings, teacher, facts
        self._seen, self._features = seen, features
        self._centres = ClassCentres(facts.num_classes)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def start(self, batch: PixelBatch) -> PixelStart:
        pixels = initial_images(self._settings.initial_images, batch.size, self._facts, batch.generator)
        labels = torch.randint(self._facts.num_classes, (batch.size,), generator=batch.generator)
        targets = soft_targets(batch.size, self._settings.eps, batch.generator).to(self.like)
        self._update_centres()
        found = self._centres.of(labels)
        centres = None if found is None else (found[0].to(self.like), found[1].to(self.like.device))
        own = labels.to(self.like.device)

        def objective(pixels: Tensor) -> Mapping[str, Tensor]:
            logits = self._teacher(self._reinforce(pixels, batch.generator))
            terms = {"batchnorm": batchnorm_loss(self._seen)}
            if self._settings.use_soft_inception:
                terms["soft_inception"] = soft_inception_loss(logits, own, targets)
            if self._features is not None and centres is not None:
                margins = self._settings.lambda_l, self._settings.lambda_u
                terms["marginal_distance"] = marginal_distance_loss(self._features().to(self.like), *centres, *margins)
            return terms

        return PixelStart(pixels, objective, labels)

    def finish(self, images: Tensor, labels: Tensor | None) -> None:
        if labels is not None:
            self._waiting.append((images, labels))

    def _update_centres(self) -> None:
        """Count finished images in, un-augmented; only once a batch needs them, so that the last is never evaluated."""
        if self._features is None:
            return
        for images, labels in self._waiting:
            with torch.no_grad():
                self._teacher(fast_layout(images.to(self.like)))
            self._centres.add(self._features(), labels)
        self._waiting.clear()

    def _reinforce(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        settings = self._settings
        if not settings.use_lor or torch.rand((), generator=generator).item() >= settings.augment_probability:
            return pixels
        size = (pixels.shape[2], pixels.shape[3])
        mirror = MIRROR_PROBABILITY if settings.use_flip else 0.0
        crops = draw_crops(
            len(pixels),
            size,
            min_area=settings.eta,
            mirror_probability=mirror,
            generator=generator,
            max_angle=settings.rotation,
        )
        return fast_layout(crop_and_resize(pixels, crops))


def soft_targets(count: int, lowest: float, generator: torch.Generator) -> Tensor:
    """Draw the probability wanted for each image's own class: 1 with probability 1/2, else uniform in [lowest, 1].

    Args:
        count: How many images, N.
        lowest: The smallest target.
        generator: Where the random numbers come from.

    Returns:
        (N,)
    """
    soft = lowest + (1 - lowest) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, soft)
