"""Optimise images until each of them alone has the teacher's BatchNorm statistics (ZeroQ).

Paper: Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, arXiv:2001.00281.
Written from the published formulas; the authors' GPL-3.0 code was not opened.

Minimised over the pixels x of each batch, where m and d are the mean and the unbiased standard deviation over the space
of one image, mu and s those stored in a BatchNorm layer, and layer 0 is the image itself with mu = 0 and s = 1:
    L(x) = sum over layers of  mean over images of  |mu - m(x)|^2 + |s - d(x)|^2

Deviations from the released code, each pinned by a test:
    D1  the statistics are taken at the inputs of the BatchNorm layers themselves; the code pairs convolutions with
        BatchNorm layers by order of definition, which silently mispairs them in some networks.
    D2  any number of images, in batches; the code makes a single batch.
    D3  a layer that sees one value per image and channel counts with its mean only: its unbiased variance is undefined.
    D4  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dfq_plugin.providers.base import GenerationRequest, cited
from dfq_plugin.providers.initial_images import MEANING, InitialImages, initial_images
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.batchnorm import tap_batchnorm
from dfq_plugin.synthesis.descent import PixelBatch, PixelStart
from dfq_plugin.synthesis.losses import input_statistics, zeroq_loss
from dfq_plugin.synthesis.pixel_provider import PixelProvider
from dfq_plugin.synthesis.pixels import optimise_pixels
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

# Grey levels 0..254 about their middle, divided by the variance (73.6^2) where the standard deviation is meant.
GREY_LEVELS, GREY_MIDDLE, GREY_VARIANCE = 255, 127.5, 5418.75


@register_provider
class ZeroQ(PixelProvider):
    """Optimise noise until every image by itself has the statistics that the BatchNorm layers stored.

    Fast and without labels; the images of a batch resemble each other, since each is pulled to the same statistics.
    """

    name: ClassVar[str] = "zeroq"
    paper: ClassVar[str] = "ZeroQ: A Novel Zero Shot Quantization Framework, CVPR 2020, arXiv:2001.00281"
    needs: ClassVar[str] = "BatchNorm layers that keep running statistics"

    steps: int = cited(500, "released code", "Adam steps per batch.", ge=1)
    learning_rate: float = cited(
        0.5, "released code", "Step size at the start, in units of normalised intensity.", gt=0
    )
    batch_size: int = cited(
        64, "released code (run.sh)", "Images optimised together; memory grows with it, the result does not.", ge=1
    )
    patience: int = cited(
        100, "released code", "Steps without improvement before the step size is divided by ten.", ge=0
    )
    min_learning_rate: float = cited(1e-4, "released code", "Floor below which the step size is not reduced.", gt=0)
    initial_images: Literal["released"] | InitialImages = cited(
        "released",
        "released code",
        f"{MEANING[:-1]}; 'released' is almost flat noise (standard deviation 0.0136).",
    )

    @property
    def wants_classes(self) -> bool:
        return False

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        network = self.watched_copy(teacher, facts)
        with tap_batchnorm(network, facts, per_image=True) as seen:

            def objective(pixels: Tensor) -> Mapping[str, Tensor]:
                network(pixels)  # fills the list; the logits are not used by this method
                return {"input": zeroq_loss([input_statistics(pixels)]), "batchnorm": zeroq_loss(seen)}

            def start(batch: PixelBatch) -> PixelStart:
                return PixelStart(self._draw(batch, facts), objective)

            result = optimise_pixels(self.pixel_settings(), request, next(network.parameters()), start)
        return SyntheticSet(result.images, None, None, self.provenance(facts, request, curves=result.curves))

    def _draw(self, batch: PixelBatch, facts: ModelFacts) -> Tensor:
        if self.initial_images != "released":
            return initial_images(self.initial_images, batch.size, facts, batch.generator)
        grey = torch.randint(GREY_LEVELS, (batch.size, *facts.input_shape), generator=batch.generator)
        return (grey - GREY_MIDDLE) / GREY_VARIANCE
