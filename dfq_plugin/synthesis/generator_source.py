"""Batches from a generator that learns while the student does: one step against the student for every batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch
from dfq_plugin.errors import DivergedError
from dfq_plugin.progress import track
from dfq_plugin.room import room_for_images
from dfq_plugin.synthesis.batchnorm import BatchNormStatistics, tap_batchnorm
from dfq_plugin.teacher import ModelFacts
from dfq_plugin.training_state import load_optimizer_state, optimizer_state, part, under

BETAS = (0.5, 0.999)  # of Adam, in the released codes of GDFQ, Qimera and AdaDFQ


@dataclass(frozen=True)
class Seen:
    """One batch of generated images with what the networks make of it; everything carries gradients to the images.

    Attributes:
        batch: The images and what they were meant to show.
        logits: (N, num_classes), the teacher's.
        statistics: What its BatchNorm layers saw.
        student: The network to play against, to be asked by methods that look at it.
    """

    batch: Batch
    logits: Tensor
    statistics: Sequence[BatchNormStatistics]
    student: nn.Module


@dataclass(frozen=True)
class Objective:
    """What a generator is trained by.

    Attributes:
        terms: Scalars by name; their sum is minimised.
        watched: Further scalars to keep a curve of.
    """

    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor] = field(default_factory=dict)


class GeneratorMethod(nn.Module):
    """What a method brings: its networks as parameters, what it asks them for, and what they are trained by."""

    @abstractmethod
    def draw(self, count: int, random: torch.Generator) -> Batch:
        """Make ``count`` images with labels; every random number comes from ``random``, on the CPU."""

    @abstractmethod
    def objective(self, seen: Seen) -> Objective:
        """Say how well the images do."""


@dataclass(frozen=True)
class GeneratorSettings:
    """How a generator is trained.

    Attributes:
        provider: Name of the method, for messages.
        batch_size: Images a batch.
        steps_per_epoch: Batches an epoch.
        warmup_epochs: Epochs in which the generator learns alone.
        learning_rate: Adam's, at the start.
        milestones: Epochs after which it is divided by ten.
    """

    provider: str
    batch_size: int
    steps_per_epoch: int
    warmup_epochs: int
    learning_rate: float
    milestones: tuple[int, ...]


class GeneratorSource:
    """A ``BatchSource`` whose generator takes one Adam step for every batch it gives.

    Args:
        method: The generator; moved to the teacher's device.
        teacher: The float network, in eval mode.
        facts: Its facts.
        settings: How the generator is trained.
        seed: Of everything that is drawn.
    """

    def __init__(
        self, method: GeneratorMethod, teacher: nn.Module, facts: ModelFacts, settings: GeneratorSettings, seed: int
    ) -> None:
        self._method = method.to(next(teacher.parameters()))
        self._teacher, self._facts, self._settings = teacher, facts, settings
        self._random = torch.Generator().manual_seed(seed)
        self._parameters = list(method.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=settings.learning_rate, betas=BETAS)
        milestones = [epoch * settings.steps_per_epoch for epoch in settings.milestones]
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, milestones, gamma=0.1)
        self._curves: dict[str, list[float]] = {}

    @property
    def batches_per_epoch(self) -> int:
        return self._settings.steps_per_epoch

    @property
    def steps(self) -> int:
        """How many steps the generator has taken."""
        return self._schedule.last_epoch

    def prepare(self, student: nn.Module) -> None:
        missing = self._settings.warmup_epochs * self._settings.steps_per_epoch - self.steps
        if missing > 0:
            for _ in track(missing, f"Warming the generator up ({self._settings.provider})"):
                self.next_batch(student)

    def next_batch(self, student: nn.Module) -> Batch:
        with torch.enable_grad(), tap_batchnorm(self._teacher, self._facts) as statistics:
            batch = self._method.draw(self._settings.batch_size, self._random)
            objective = self._method.objective(Seen(batch, self._teacher(batch.images), statistics, student))
            loss = torch.stack(list(objective.terms.values())).sum()
        self._note({**objective.terms, **objective.watched}, batch.images)
        # Asked for the generator only, so that nothing is added to the gradients of teacher and student.
        for parameter, gradient in zip(self._parameters, torch.autograd.grad(loss, self._parameters), strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._schedule.step()
        return Batch(batch.images.detach(), batch.labels, batch.soft_labels)

    @torch.no_grad()
    def draw(self, count: int, folder: Path | None = None) -> Batch:
        """Give images, on the CPU, from the generator as it is; it does not learn from them.

        Args:
            count: How many.
            folder: Where a large number of them may lie.
        """
        size = self._settings.batch_size
        images = room_for_images((count, *self._facts.input_shape), folder)
        labels: list[Tensor] = []
        soft_labels: list[Tensor] = []
        for start in range(0, count, size):
            batch = self._method.draw(size, self._random)
            images[start : start + size] = batch.images[: count - start].cpu()
            labels += [] if batch.labels is None else [batch.labels.cpu()]
            soft_labels += [] if batch.soft_labels is None else [batch.soft_labels.cpu()]
        return Batch(
            images,
            torch.cat(labels)[:count] if labels else None,
            torch.cat(soft_labels)[:count] if soft_labels else None,
        )

    def curves(self) -> Mapping[str, tuple[float, ...]]:
        """Each term of the generator's loss, and what else the method watches: one mean per epoch, warm-up included."""
        size = self._settings.steps_per_epoch
        return {
            f"generator.{name}": tuple(
                sum(values[start : start + size]) / len(values[start : start + size])
                for start in range(0, len(values), size)
            )
            for name, values in self._curves.items()
        }

    def history(self) -> dict[str, Tensor]:
        """What ``curves`` averages, step by step: (steps,) each."""
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in self._curves.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "random": self._random.get_state(),
            **under("method", self._method.state_dict()),
            **under("optimizer", optimizer_state(self._optimizer, self._schedule)),
            **under("curves", self.history()),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._random.set_state(state["random"])
        self._method.load_state_dict(part("method", state))
        load_optimizer_state(self._optimizer, self._schedule, part("optimizer", state))
        self._curves = {name: values.tolist() for name, values in part("curves", state).items()}

    def _note(self, scalars: Mapping[str, Tensor], images: Tensor) -> None:
        values = torch.stack([scalar.detach() for scalar in scalars.values()]).tolist()
        if not all(map(math.isfinite, values)):
            listed = ", ".join(f"{name} {value:g}" for name, value in zip(scalars, values, strict=True))
            msg = (
                f"Provider '{self._settings.provider}', step {self.steps}: the loss is not finite ({listed}); lower "
                f"learning_rate (it is {self._settings.learning_rate:g}), or check the teacher's weights for "
                "values that are not finite."
            )
            raise DivergedError(msg, images.detach())
        for name, value in zip(scalars, values, strict=True):
            self._curves.setdefault(name, []).append(value)
