"""What every provider that matches BatchNorm statistics has in common: its settings, and that it needs BatchNorm."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
from torch import nn

from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.providers.base import Provider, cited
from dfq_plugin.synthesis.descent import PixelSettings
from dfq_plugin.synthesis.folding import computing_in_bfloat16, folded_copy
from dfq_plugin.synthesis.schedules import reduce_on_plateau
from dfq_plugin.teacher import ModelFacts


class BatchNormProvider(Provider):
    """A provider that matches BatchNorm statistics by Adam steps; the methods below it give the defaults.

    Attributes:
        steps: Adam steps per batch.
        learning_rate: Step size at the start.
        batch_size: Images optimised together.
    """

    revision: ClassVar[int] = 2

    steps: int
    learning_rate: float
    batch_size: int
    precision: Literal["float32", "bfloat16"] = cited(
        "float32",
        "papers",
        "What the teacher computes in; bfloat16 is about twice as fast where the processor multiplies it.",
    )

    @property
    def wants_classes(self) -> bool:
        """Whether the method needs a teacher that gives classes; not all do."""
        return True

    def watched_copy(self, teacher: nn.Module, facts: ModelFacts) -> nn.Module:
        """Copy a teacher for the steps of synthesis: frozen, cheap to run, and as good to watch as itself."""
        copied = folded_copy(teacher, facts)
        return computing_in_bfloat16(copied) if self.precision == "bfloat16" else copied

    def requires(self, facts: ModelFacts) -> None:
        if not facts.batchnorm_layers:
            msg = (
                f"Provider '{self.name}' matches the statistics stored in BatchNorm layers, and this teacher runs none "
                "(were they folded into the convolutions?); 'psaq' wants self-attention instead, and 'fractal', "
                "'noise' and 'folder' work with any network."
            )
            raise UnsupportedModelError(msg)
        if self.wants_classes:
            who = f"Provider '{self.name}' makes images of the teacher's classes: it"
            facts.require_classes(who, "'zeroq', 'genie' and 'fractal' need no classes")


class PixelProvider(BatchNormProvider):
    """A provider whose step size falls whenever the loss stops falling.

    Attributes:
        patience: Steps without improvement before the step size is divided by ten.
        min_learning_rate: Floor below which the step size is not reduced.
    """

    patience: int
    min_learning_rate: float

    @pydantic.model_validator(mode="after")
    def _check_learning_rates(self) -> PixelProvider:
        if self.min_learning_rate > self.learning_rate:
            msg = (
                f"min_learning_rate ({self.min_learning_rate:g}) is above learning_rate ({self.learning_rate:g}); "
                "lower the one or raise the other"
            )
            raise ConfigError(msg)
        return self

    def pixel_settings(self) -> PixelSettings:
        """Say how the pixels are optimised."""
        rule = reduce_on_plateau(self.patience, self.min_learning_rate)
        return PixelSettings(self.name, self.steps, self.batch_size, self.learning_rate, rule)
