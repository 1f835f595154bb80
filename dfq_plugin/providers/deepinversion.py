"""Optimise images that the teacher takes for given classes and that look natural to it (DeepInversion, ADI).

Paper: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, arXiv:1912.08795.
Written from the published procedure; the released sources, whose licence is non-commercial, were not used.

Minimised over the pixels of each batch, as seen through a random shift and mirror image:
    classification    cross-entropy of the teacher's logits and the wanted classes
    batchnorm         |mean - stored| + |variance - stored|, Euclidean norms, summed over layers, the first one 10 times
    total_variation   norms of the differences between neighbours in four directions
    norm              Euclidean norm of an image
    competition       1 - Jensen-Shannon divergence of a quantized student and the teacher (ADI)
Two thirds of the steps of preset "imagenet" look at the images at half their size.

Deviations from the released code:
    D1  classes are balanced in every preset; the code for ImageNet has a list of 42 hand-picked ones.
    D2  the competition is against a quantized copy of the teacher, which is what ADI images are wanted for here, not
        against another float network. It is calibrated on the images of its own batch half-way, and competes from then
        on, so that a batch depends on no other one.
    D3  the image kept is the one of the lowest loss among steps with the whole loss: full size, competition on. The
        code compares across sizes, whose losses have different scales.
    D4  shifts are a fraction of the image's side (30 of 224 pixels, 2 of 32), so that any image size works.
    D5  the step size rises over a tenth of a stage if that is shorter than 100 steps; Adam's moments outlive a stage.
    D6  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.augment import jitter
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, Phase, cited
from dfq_plugin.providers.initial_images import MEANING, InitialImages, initial_images
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics, tap_batchnorm
from dfq_plugin.synthesis.class_labels import balanced_labels
from dfq_plugin.synthesis.descent import PixelBatch, PixelSettings, PixelStart, fast_layout
from dfq_plugin.synthesis.inversion_losses import (
    batchnorm_norm_loss,
    competition_loss,
    image_norm,
    total_variation_mean,
    total_variation_norm,
)
from dfq_plugin.synthesis.pixel_provider import BatchNormProvider
from dfq_plugin.synthesis.pixels import optimise_pixels
from dfq_plugin.synthesis.presets import fill_from_preset
from dfq_plugin.synthesis.quick_student import quick_student
from dfq_plugin.synthesis.schedules import constant, warm_up_and_cosine
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "imagenet": {
        "steps": 3000,
        "low_resolution_share": 2 / 3,
        "learning_rate": 0.25,
        "schedule": "cosine",
        "betas": (0.5, 0.9),
        "batch_size": 84,
        "batchnorm_weight": 0.01,
        "total_variation_weight": 1e-4,
        "norm_weight": 1e-5,
        "jitter": 30 / 224,
        "use_flip": True,
        "use_clip": True,
        "keep": "best",
    },
    "cifar10": {
        "steps": 2000,
        "low_resolution_share": 0.0,
        "learning_rate": 0.05,
        "schedule": "constant",
        "betas": (0.9, 0.999),
        "batch_size": 256,
        "batchnorm_weight": 10.0,
        "total_variation_weight": 2.5e-5,
        "norm_weight": 0.0,
        "jitter": 2 / 32,
        "use_flip": False,
        "use_clip": False,
        "keep": "last",
    },
}
PRESET_SOURCE = "the preset: 'imagenet' from the released code and its README, 'cifar10' from the paper"
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]
WARM_UP = 100  # steps, released code
STUDENT_TEMPERATURE = 3.0  # released code


@register_provider
class DeepInversion(BatchNormProvider):
    """Optimise noise into images of balanced classes by their class, BatchNorm statistics and smoothness.

    With ``competition`` above 0 (the paper's Adaptive DeepInversion, 0.2) the images are also pushed to where a
    quantized student fails. The presets fill whatever of their settings is not given. On a CPU ``steps=200``,
    ``learning_rate=0.1`` and ``batch_size=16`` are enough for networks on 32x32 images.
    """

    name: ClassVar[str] = "deepinversion"
    paper: ClassVar[str] = (
        "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, arXiv:1912.08795"
    )
    needs: ClassVar[str] = (
        "BatchNorm layers that keep running statistics; with low_resolution_share also a network that takes half-size "
        "images"
    )

    preset: Literal["imagenet", "cifar10"] = cited(
        "imagenet", "this project: the paper's main experiment", "Where the settings that are left out come from."
    )
    steps: int = cited(None, PRESET_SOURCE, "Adam steps per batch, at half and at full size together.", ge=1)
    learning_rate: float = cited(None, PRESET_SOURCE, "Largest step size, in units of normalised intensity.", gt=0)
    batch_size: int = cited(None, PRESET_SOURCE, "Images optimised together; statistics are matched per batch.", ge=1)
    low_resolution_share: float = cited(
        None,
        PRESET_SOURCE,
        "Share of the steps, from the first on, that see the images at half their size.",
        ge=0,
        lt=1,
    )
    schedule: Literal["cosine", "constant"] = cited(
        None, PRESET_SOURCE, "How the step size goes: 'cosine' after a warm-up, anew at full size, or 'constant'."
    )
    betas: tuple[Decay, Decay] = cited(None, PRESET_SOURCE, "Adam's decay rates.")
    classification_weight: float = cited(1.0, "released code", "Weight of the cross-entropy.", ge=0)
    batchnorm_weight: float = cited(None, PRESET_SOURCE, "Weight of the BatchNorm feature loss.", gt=0)
    first_layer_weight: float = cited(10.0, "released code", "How many times the first BatchNorm layer counts.", ge=0)
    total_variation_weight: float = cited(
        None, PRESET_SOURCE, "Weight of the total variation in Euclidean norms.", ge=0
    )
    absolute_variation_weight: float = cited(
        0.0, "released code", "Weight of the total variation in mean absolute differences.", ge=0
    )
    norm_weight: float = cited(None, PRESET_SOURCE, "Weight of the norm of the images.", ge=0)
    jitter: float = cited(
        None, PRESET_SOURCE, "Largest random shift in each direction, as a fraction of the side.", ge=0, le=0.5
    )
    use_flip: bool = cited(None, PRESET_SOURCE, "Mirror the whole batch left to right in half of the steps.")
    use_clip: bool = cited(
        None, PRESET_SOURCE, "Keep pixels within what a real image can have; needs the teacher's mean and std."
    )
    keep: Literal["best", "last"] = cited(
        None, PRESET_SOURCE, "Which images are kept: of the lowest loss, or the last."
    )
    competition: float = cited(
        0.0, "released code (0.2 for ADI)", "Weight of the competition with a quantized student; 0 is no ADI.", ge=0
    )
    competition_start: float = cited(
        0.5,
        "this project: noise calibrates no student",
        "Share of the steps after which the student competes.",
        ge=0,
        lt=1,
    )
    initial_images: InitialImages = cited("gaussian", "paper", MEANING)
    student_bits: int = cited(
        4, "this project: where the methods of the field are compared", "Bits of the competing student.", ge=2, le=8
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:  # noqa: ANN401 - anything can be handed in; pydantic checks it
        return fill_from_preset(values, PRESETS, "imagenet")

    @property
    def wants_classes(self) -> bool:
        return self.classification_weight > 0 or self.competition > 0

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        if self.low_steps:
            _check_half_size(teacher, facts)
        network = self.watched_copy(teacher, facts)
        like = next(network.parameters())
        with tap_batchnorm(network, facts) as seen:

            def start(batch: PixelBatch) -> PixelStart:
                pixels = initial_images(self.initial_images, batch.size, facts, batch.generator)
                first = batch.index * self.batch_size
                labels = balanced_labels(max(1, facts.num_classes), first, batch.size, request.seed)
                own = labels.to(like.device)
                return PixelStart(pixels, _Objective(self, batch.generator, network, seen, own, compete), labels)

            def compete(pixels: Tensor) -> nn.Module:
                return quick_student(teacher, facts, self.student_bits, pixels)

            result = optimise_pixels(self.pixel_settings(facts), request, like, start)
        labels = result.labels if self.classification_weight else None
        return SyntheticSet(result.images, labels, None, self.provenance(facts, request, curves=result.curves))

    def phases(self, facts: ModelFacts, request: GenerationRequest) -> Sequence[Phase]:  # noqa: ARG002
        low = self.low_steps / self.steps
        rival = 1.0 - max(low, self.first_rival_step / self.steps)
        alone = self.model_copy(update={"competition": 0.0})
        at_once = {"low_resolution_share": 0.0, "competition_start": 0.0}
        parts = [
            Phase(alone, request, low),
            Phase(alone.model_copy(update=at_once), request, 1.0 - low - rival),
            Phase(self.model_copy(update=at_once), request, rival),
        ]
        return [part for part in parts if part.share > 0]

    @property
    def low_steps(self) -> int:
        """How many steps see the images at half their size."""
        return round(self.steps * self.low_resolution_share)

    @property
    def first_rival_step(self) -> int:
        """First step with the competition in the loss; equal to ``steps`` without one."""
        return int(self.steps * self.competition_start) if self.competition else self.steps

    def pixel_settings(self, facts: ModelFacts) -> PixelSettings:
        """Say how the pixels are optimised."""
        stages = [steps for steps in (self.low_steps, self.steps - self.low_steps) if steps]
        rule = warm_up_and_cosine(stages, WARM_UP) if self.schedule == "cosine" else constant
        whole = max(self.low_steps, self.first_rival_step if self.competition else 0)
        return PixelSettings(
            self.name,
            self.steps,
            self.batch_size,
            self.learning_rate,
            rule,
            betas=self.betas,
            project=_clip_to_range(facts) if self.use_clip else None,
            keep_best_from=min(whole, self.steps - 1) if self.keep == "best" else None,
        )


@dataclass
class _Objective:
    """The loss of one batch, which changes with the step: half size first, the competition later."""

    settings: DeepInversion
    random: torch.Generator
    teacher: nn.Module
    seen: list[BatchNormStatistics]
    labels: Tensor
    compete: Callable[[Tensor], nn.Module]
    student: nn.Module | None = None
    step: int = 0

    def __call__(self, pixels: Tensor) -> Mapping[str, Tensor]:
        settings = self.settings
        if self.step == settings.first_rival_step:
            self.student = self.compete(pixels.detach())
        images = self._look_at(pixels)
        logits = self.teacher(images)
        parts: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "classification": (settings.classification_weight, lambda: F.cross_entropy(logits, self.labels)),
            "batchnorm": (
                settings.batchnorm_weight,
                lambda: batchnorm_norm_loss(self.seen, settings.first_layer_weight),
            ),
            "total_variation": (settings.total_variation_weight, lambda: total_variation_norm(images)),
            "absolute_variation": (settings.absolute_variation_weight, lambda: total_variation_mean(images)),
            "norm": (settings.norm_weight, lambda: image_norm(images)),
            "competition": (settings.competition, lambda: self._rivalry(images, logits)),
        }
        self.step += 1
        return {name: weight * loss() for name, (weight, loss) in parts.items() if weight}

    def _rivalry(self, images: Tensor, logits: Tensor) -> Tensor:
        if self.student is None:
            return images.new_zeros(())  # every step has the same terms
        return competition_loss(self.student(images), logits, STUDENT_TEMPERATURE)

    def _look_at(self, pixels: Tensor) -> Tensor:
        images = F.avg_pool2d(pixels, kernel_size=2) if self.step < self.settings.low_steps else pixels
        images = jitter(images, self.settings.jitter, mirror=self.settings.use_flip, generator=self.random)
        return fast_layout(images)


def _clip_to_range(facts: ModelFacts) -> Callable[[Tensor], object] | None:
    """Make the function that puts normalised pixels back where real ones lie; None when that is not known."""
    if facts.mean is None or facts.std is None:
        return None
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    black, white = -mean / std, (1 - mean) / std
    return lambda pixels: pixels.clamp_(black.to(pixels), white.to(pixels))


def _check_half_size(teacher: nn.Module, facts: ModelFacts) -> None:
    channels, height, width = facts.input_shape
    shape = (channels, height // 2, width // 2)
    try:
        with torch.no_grad():
            teacher(torch.zeros(1, *shape).to(next(teacher.parameters())))
    except Exception as error:  # a foreign network may raise anything
        msg = (
            f"Provider 'deepinversion' begins with images of half the size, and this teacher refuses {shape}: "
            f"{error}. Set low_resolution_share to 0."
        )
        raise UnsupportedModelError(msg) from error
