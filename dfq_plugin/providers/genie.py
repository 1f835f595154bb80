"""Optimise a small generator and its inputs until the images have the teacher's BatchNorm statistics (GENIE-D).

Paper: Jeon et al., "Genie: Show Me the Data for Quantization", CVPR 2023, arXiv:2212.04780.
Written from the published procedure; the released sources were not used.

Minimised for each batch over its latents and the weights of a fresh generator, where m and d are the mean and the
unbiased standard deviation of a BatchNorm layer's input over batch and space, mu and s those stored:
    batchnorm    sum over layers of  mean over channels of  (mu - m)^2 + (s - d)^2
    input        mean over images of  |mean over space|^2 + |1 - standard deviation over space|^2
while every strided convolution of the teacher reads its input through a random shift of one pixel (swing convolution).

Deviations from the released code:
    D1  the generator's sizes follow the image: a map of a quarter of its sides is doubled twice, as in the code for 224
        pixels; above 224 pixels there are more doublings, and sides that are no multiple are cut.
    D2  1e-6 stands inside the root of the seen variance too, so that flat channels have a gradient; a layer that sees
        one value per channel counts with its mean only.
    D3  the images are drawn once more after the last step instead of being those before it.
    D4  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from dfq_plugin.providers.base import GenerationRequest, cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.descent import Descent, PixelBatch
from dfq_plugin.synthesis.generators import initialised
from dfq_plugin.synthesis.latents import LatentGenerator, Latents
from dfq_plugin.synthesis.losses import deviation_loss, input_statistics, zeroq_loss
from dfq_plugin.synthesis.pixel_provider import PixelProvider
from dfq_plugin.synthesis.pixels import optimise_batches
from dfq_plugin.synthesis.swing import swing_convolutions
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts


@register_provider
class Genie(PixelProvider):
    """Optimise latents together with a generator that draws images from them; the images have no labels.

    The generator's linear layer has 103 million weights at 224x224 and 2 million at 32x32. On a CPU ``steps=200`` and
    ``batch_size=16`` are enough for networks on 32x32 images; the step sizes stay the paper's.
    """

    name: ClassVar[str] = "genie"
    paper: ClassVar[str] = "Genie: Show Me the Data for Quantization, CVPR 2023, arXiv:2212.04780"
    needs: ClassVar[str] = "BatchNorm layers that keep running statistics"

    steps: int = cited(4000, "released code", "Adam steps per batch.", ge=1)
    learning_rate: float = cited(0.1, "released code", "Step size of the latents at the start.", gt=0)
    batch_size: int = cited(128, "released code", "Images that share a generator and are optimised together.", ge=1)
    patience: int = cited(
        100, "released code", "Steps without improvement before the step size of the latents is divided by ten.", ge=0
    )
    min_learning_rate: float = cited(
        1e-4, "released code", "Floor below which the step size of the latents is not reduced.", gt=0
    )
    generator_learning_rate: float = cited(0.01, "released code", "Step size of the generator at the start.", gt=0)
    generator_decay: float = cited(
        0.95, "released code", "What the step size of the generator is multiplied with now and then.", gt=0, le=1
    )
    generator_decay_steps: int = cited(100, "released code", "After how many steps, each time.", ge=1)
    latent_size: int = cited(256, "released code", "Width of a latent.", ge=1)
    use_swing: bool = cited(
        default=True, source="paper", description="Shift the input of strided convolutions at random."
    )

    @property
    def wants_classes(self) -> bool:
        return False

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        watched = self.watched_copy(teacher, facts)
        like = next(watched.parameters())
        settings = self.pixel_settings()
        with tap_batchnorm(watched, facts) as seen:

            def prepare(batch: PixelBatch) -> Descent:
                latents = torch.randn((batch.size, self.latent_size), generator=batch.generator)
                network = initialised(lambda: LatentGenerator(facts.input_shape, self.latent_size), batch.generator)
                unknowns = Latents(
                    settings,
                    latents.to(like),
                    network.to(like),
                    learning_rate=self.generator_learning_rate,
                    decay=self.generator_decay,
                    decay_steps=self.generator_decay_steps,
                )

                def objective(images: Tensor) -> Mapping[str, Tensor]:
                    if self.use_swing:
                        with swing_convolutions(watched, batch.generator):
                            watched(images)
                    else:
                        watched(images)
                    return {"batchnorm": deviation_loss(seen), "input": zeroq_loss([input_statistics(images)])}

                return Descent(unknowns, objective)

            result = optimise_batches(settings, request, prepare)
        return SyntheticSet(result.images, None, None, self.provenance(facts, request, curves=result.curves))
