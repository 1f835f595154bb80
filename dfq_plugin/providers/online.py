"""What the generator methods share: their settings, a source of batches to fine-tune on, and a fixed set drawn from it.

A generator learns to make images while the student learns from them. ``source`` gives fine-tuning batches that adapt
to the student; ``generate`` trains the generator by itself for a while and draws a fixed set, so that every one of
these methods also serves plain calibration.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import ClassVar, Literal

from torch import nn

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.batches import Batch, BatchSource
from dfq_plugin.progress import track
from dfq_plugin.providers.base import GenerationRequest, cited
from dfq_plugin.synthesis.curves import curves_of
from dfq_plugin.synthesis.generator_source import GeneratorMethod, GeneratorSettings, GeneratorSource
from dfq_plugin.synthesis.generators import initialised
from dfq_plugin.synthesis.pixel_provider import BatchNormProvider
from dfq_plugin.synthesis.pixels import batch_generator
from dfq_plugin.synthesis.quick_student import QuickStudent
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts
from dfq_plugin.training_state import part, under

FAMILY = "released codes of GDFQ, Qimera and AdaDFQ"
LARGE_IMAGE = 64  # pixels; sides above it take the papers' network for ImageNet
CALIBRATION_EPOCHS = 4  # after which the papers' students keep their activation ranges
logger = logging.getLogger("nncf.dfq_plugin.synthesize")


class OnlineProvider(BatchNormProvider):
    """A method whose generator learns against the student; the fields here mean the same in all of them."""

    online: ClassVar[bool] = True

    steps: int = cited(
        2000,
        "this project: ten of the papers' epochs",
        "Generator steps before a fixed set is drawn; fine-tuning takes as many as it has batches instead.",
        ge=1,
    )
    learning_rate: float = cited(1e-3, FAMILY, "Step size of the generator's Adam at the start.", gt=0)
    batch_size: int = cited(
        16, "released codes (ImageNet; AdaDFQ everywhere; GDFQ and Qimera 200 for CIFAR)", "Images a batch.", ge=1
    )
    steps_per_epoch: int = cited(200, FAMILY, "Batches that make an epoch.", ge=1)
    warmup_epochs: int = cited(
        4,
        "released codes (CIFAR; 50 for ImageNet)",
        "Epochs in which the generator learns before the student does.",
        ge=0,
    )
    milestones: tuple[int, ...] = cited(
        (100, 200, 300), FAMILY, "Epochs, the warm-up counted, after which the generator's step size is divided by ten."
    )
    network: Literal["auto", "small", "large"] = cited(
        "auto",
        "this project: auto agrees with the papers at 32 and at 224 pixels",
        "The papers' generator for CIFAR or the one for ImageNet; auto takes the large one above 64 pixels.",
    )

    @abstractmethod
    def make_method(self, teacher: nn.Module, facts: ModelFacts) -> GeneratorMethod:
        """Make the generator and what it is trained by; first weights may be drawn from the global random state."""

    def make_student(self, teacher: nn.Module, facts: ModelFacts, batch: Batch) -> nn.Module:  # noqa: ARG002
        """Make what the generator plays against when a fixed set is made; the default is for those that never look."""
        return nn.Identity()

    def source(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> BatchSource:
        """Give batches for fine-tuning that adapt to the student.

        Args:
            teacher: The float network, on its device; to be held in eval mode while batches are drawn.
            facts: Its facts.
            request: The seed; batches have the size of the provider's settings, and there is no end of them.

        Raises:
            UnsupportedModelError: The method cannot use this teacher.
        """
        return self.make_source(teacher, facts, request.seed)

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        source = self.make_source(teacher, facts, request.seed)
        student = self.make_student(teacher, facts, source.draw(self.batch_size))
        store = BatchStore(request.checkpoint_folder)
        if (state := store.load(0)) is not None:
            source.load_state_dict(part("source", state))
            student.load_state_dict(part("student", state))
        with track(self.steps, f"Training a generator ({self.name})") as progress:
            progress.advance(source.steps)
            while source.steps < self.steps:
                if isinstance(student, QuickStudent):
                    student.calibrating = source.steps < CALIBRATION_EPOCHS * self.steps_per_epoch
                source.next_batch(student)
                progress.advance()
                if source.steps % self.steps_per_epoch == 0 or source.steps == self.steps:
                    kept = under("source", source.state_dict()) | under("student", student.state_dict())
                    store.save(0, kept)
        logger.info("%s: %d images after %d steps", self.name, request.num_samples, source.steps)
        drawn = source.draw(request.num_samples, request.checkpoint_folder)
        provenance = self.provenance(facts, request, curves=curves_of([source.history()]))
        return SyntheticSet(drawn.images, drawn.labels, drawn.soft_labels, provenance)

    def is_large(self, facts: ModelFacts) -> bool:
        """Whether the teacher's images take the papers' generator for ImageNet."""
        return self.network == "large" or (self.network == "auto" and max(facts.input_shape[1:]) > LARGE_IMAGE)

    def make_source(self, teacher: nn.Module, facts: ModelFacts, seed: int) -> GeneratorSource:
        """Make the source with what only sources of generators can do: draw without learning."""
        self.requires(facts)
        method = initialised(lambda: self.make_method(teacher, facts), batch_generator(seed, 0))
        settings = GeneratorSettings(
            self.name,
            self.batch_size,
            self.steps_per_epoch,
            self.warmup_epochs,
            self.learning_rate,
            self.milestones,
        )
        return GeneratorSource(method, self.watched_copy(teacher, facts), facts, settings, seed)
