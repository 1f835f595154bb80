"""Choose the method by what the teacher offers, and say why.

No paper. Objective: that of the chosen method. The choice looks at the facts of the teacher only:
    no BatchNorm layer, attention      psaq, which compares patches
    no BatchNorm layer, no attention   fractal, which needs nothing
    images of at most 64 pixels        genie, whose generator is small there
    larger images                      intraq, which has no generator to pay for
    larger images, no classes          zeroq, which needs none
and, where speed is preferred, fractal instead of psaq, and no generator for small images either.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Phase, Provider, cited
from dfq_plugin.providers.fractal import Fractal
from dfq_plugin.providers.genie import Genie
from dfq_plugin.providers.initial_images import MEANING, InitialImages
from dfq_plugin.providers.intraq import IntraQ
from dfq_plugin.providers.psaq import PSAQ
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.providers.zeroq import ZeroQ
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

logger = logging.getLogger("nncf.dfq_plugin.synthesize")

CHOSEN = "this project: None is the chosen method's own default"
SMALL_IMAGE = 64  # pixels a side
INTRAQ_PRESETS = ((10, "cifar10"), (100, "cifar100"))  # up to how many classes; "paper" above


@dataclass(frozen=True)
class Choice:
    """A method that is ready to run.

    Attributes:
        provider: The method with its settings.
        reason: Why this one, as the rest of a sentence that begins with "because".
    """

    provider: Provider
    reason: str


@register_provider
class Auto(Provider):
    """Let the teacher decide on the method; the log and the provenance say which one and why.

    Settings that are given go to the chosen method if it has them.
    """

    name: ClassVar[str] = "auto"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"
    # One more whenever the choice changes, or a default of a method that can be chosen.
    revision: ClassVar[int] = 2 + sum(cls.revision for cls in (Fractal, Genie, IntraQ, PSAQ, ZeroQ))

    steps: int | None = cited(None, CHOSEN, "Steps per batch.", ge=1)
    learning_rate: float | None = cited(None, CHOSEN, "Step size at the start.", gt=0)
    batch_size: int | None = cited(None, CHOSEN, "Images optimised together.", ge=1)
    initial_images: InitialImages | None = cited(None, CHOSEN, MEANING)
    prefer: Literal["quality", "speed"] = cited(
        "quality", "this project", "With `speed` no generator is trained, which on a CPU costs more than the network."
    )

    def choose(self, facts: ModelFacts) -> Choice:
        """Choose a method for the teacher with these facts."""
        layers, side = len(facts.batchnorm_layers), max(facts.input_shape[1:])
        if not layers:
            return self._choose_without_batchnorm(facts)
        small = side <= SMALL_IMAGE
        if small and self.prefer == "quality":
            reason = f"the teacher has {layers} BatchNorm layers, and {side} pixels a side take a small generator only"
            return Choice(self._make(Genie), reason)
        against = "speed is preferred" if small else f"{side} pixels a side would take a large generator"
        if not facts.num_classes:
            reason = f"the teacher has {layers} BatchNorm layers, it gives no classes, and {against}"
            return Choice(self._make(ZeroQ), reason)
        preset = next((preset for classes, preset in INTRAQ_PRESETS if facts.num_classes <= classes), "paper")
        reason = (
            f"the teacher has {layers} BatchNorm layers, and {against}; preset '{preset}' suits {facts.num_classes} "
            "classes best"
        )
        return Choice(self._make(IntraQ, preset=preset, use_mdc=facts.classifier is not None), reason)

    def _choose_without_batchnorm(self, facts: ModelFacts) -> Choice:
        missing = "the teacher has no BatchNorm layer whose statistics could be matched"
        if not facts.attention_operators:
            return Choice(self._make(Fractal), missing)
        if self.prefer == "speed":
            return Choice(self._make(Fractal), f"{missing}, and speed is preferred to comparing patches")
        found = f"but {facts.attention_operators} self-attentions whose patches can be compared"
        return Choice(self._make(PSAQ), f"{missing}, {found}")

    def phases(self, facts: ModelFacts, request: GenerationRequest) -> Sequence[Phase]:
        return self.choose(facts).provider.phases(facts, request)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        choice = self.choose(facts)
        logger.info("auto: chose '%s', because %s", choice.provider.name, choice.reason)
        made = choice.provider(teacher, facts, request)
        chosen = self.provenance(facts, request, reason=choice.reason, chosen=asdict(made.provenance))
        return replace(made, provenance=chosen)

    def _make(self, cls: type[Provider], **settings: Any) -> Provider:  # noqa: ANN401 - the fields of the class
        given = {name: value for name, value in self if value is not None and name in cls.model_fields}
        return cls(**settings, **given)
