"""05. A provider of your own: a class with settings and one method.

``PinkNoise`` draws images whose large shapes are stronger than their small ones, as in photographs. A package would
announce it in its metadata instead of calling ``register_provider``, and ``dfq run`` would know it by name: see
``integration_tests/plugins/acme_noise``. Run it with ``python examples/05_provider.py``.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import torch
from digits_task import MEAN, SHAPE, STD, accuracy, load_data, train
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.teacher import ModelFacts


@dfq.register_provider
class PinkNoise(dfq.Provider):
    """Noise whose amplitude falls with frequency."""

    name: ClassVar[str] = "pink_noise"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"

    slope: float = dfq.cited(1.0, "this project: as in photographs", "Power of the frequency to divide by.", ge=0)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: dfq.GenerationRequest) -> dfq.SyntheticSet:  # noqa: ARG002
        _, height, width = facts.input_shape
        random = torch.Generator().manual_seed(request.seed)
        white = torch.randn(request.num_samples, *facts.input_shape, generator=random)
        rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        frequency = (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt().clamp(min=1 / max(height, width))
        images = torch.fft.irfft2(torch.fft.rfft2(white) / frequency**self.slope, s=(height, width))
        images /= images.std()
        return dfq.SyntheticSet(images, labels=None, soft_labels=None, provenance=self.provenance(facts, request))


def main() -> None:
    """Calibrate a 4-bit network on the provider's images, and on white noise."""
    print("known:", ", ".join(info.name for info in dfq.list_providers()))
    train_images, test_images, train_labels, test_labels = load_data()
    teacher = train(train_images, train_labels, epochs=4 if "--smoke" in sys.argv else 30)
    print(f"float {accuracy(teacher, test_images, test_labels):.2f} %")
    for provider in ("pink_noise", "noise"):
        synthetic = dfq.generate(teacher, provider=provider, input_shape=SHAPE, num_samples=128, mean=MEAN, std=STD)
        student = dfq.quantize(teacher, synthetic, weight_bits=4, activation_bits=4)
        print(f"4 bits on {provider} {accuracy(student, test_images, test_labels):.2f} %")


if __name__ == "__main__":
    main()
