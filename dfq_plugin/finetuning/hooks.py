"""What data-free fine-tuning asks of a training loop, as an object with the life cycle that a loop has.

``finetune`` drives it; so does any loop of your own::

    with FinetuneHooks(teacher, student, source, settings) as hooks:
        optimizer = torch.optim.Adam(hooks.parameter_groups())
        for epoch in range(settings.epochs):
            for batch in hooks.epoch(epoch):
                optimizer.zero_grad()
                hooks.loss(batch).backward()
                optimizer.step()
                hooks.after_step()

A framework with callbacks of its own calls ``on_train_begin``, ``on_epoch_begin``, ``on_epoch_end`` and
``on_train_end`` instead of ``with`` and ``epoch``, and ``close`` where training breaks off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch, BatchSource
from dfq_plugin.config import FinetuneSettings
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning.answers import Answers
from dfq_plugin.finetuning.calibration import following_ranges, following_weights
from dfq_plugin.finetuning.features import Outputs, compared_layers
from dfq_plugin.finetuning.lean import lean_quantizers
from dfq_plugin.finetuning.losses import (
    attention_loss,
    cross_entropy_loss,
    disagreement_loss,
    feature_loss,
    kl_loss,
    mse_loss,
)
from dfq_plugin.finetuning.trained import Trained
from dfq_plugin.finite import first_broken_layer
from dfq_plugin.network_state import frozen
from dfq_plugin.student import HOOKS, Student
from dfq_plugin.training_state import part, under

TOTAL = "total"


class FinetuneHooks:
    """Prepares teacher and student, gives batches and their loss, and leaves the student ready for export.

    From ``on_train_begin`` on, gradients reach the student's weights, biases and quantizer ranges, and the teacher is
    held in eval mode. ``on_train_end`` puts the biases on the integer grid; both networks then are as they were, but
    for what the student has learned. BatchNorm never updates its statistics.

    Args:
        teacher: the float network; never modified.
        student: its quantized copy.
        source: the batches; one that adapts to the student takes its own step for every batch.
        settings: losses and rates; ``epochs`` and ``schedule`` are the loop's business.

    Attributes:
        steps: how many steps of the optimiser there have been.
    """

    def __init__(self, teacher: nn.Module, student: Student, source: BatchSource, settings: FinetuneSettings) -> None:
        self.steps = 0
        self._teacher, self._student, self._source, self._settings = teacher, student, source, settings
        follow = settings.weight_range == "min_max"
        self._trained = Trained(student, batchnorm=settings.train_batchnorm, weight_ranges=not follow)
        self._epoch = 0
        self._sums: dict[str, float] = {}
        self._counted = 0
        self._curves: dict[str, list[float]] = {}
        self._compared: tuple[Outputs, Outputs] = [], []
        self._answers = Answers(teacher, keep=not self._compares_features)
        self._open = ExitStack()

    def __enter__(self) -> FinetuneHooks:
        self.on_train_begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.on_train_end()
        else:
            self.close()

    def on_train_begin(self) -> None:
        """Make teacher and student ready; warm the source up and follow the ranges, unless a state was loaded."""
        self._student.eval()
        self._open.enter_context(self._trained.with_gradients())
        self._open.enter_context(lean_quantizers(self._student))
        self._open.enter_context(frozen(self._teacher))
        settings = self._settings
        if settings.weight_range == "min_max":
            self._open.enter_context(following_weights(self._student))
        try:
            if self._compares_features:
                layers = compared_layers(self._teacher, self._student, settings.feature_layers)
                self._compared = self._open.enter_context(layers)
            self._source.prepare(self._student)
            if self.steps == 0 and settings.calibration_batches:
                self._calibrate(settings.calibration_batches)
        except BaseException:
            self.close()
            raise

    def parameter_groups(self) -> list[dict[str, object]]:
        """Everything that is trained, one group a tensor with its own rate, for any ``torch.optim`` optimiser.

        Rates are relative to the size of the tensor, but for ``settings.optimizer == "sgd"``.
        """
        settings = self._settings
        return self._trained.groups(settings.lr, settings.range_lr_multiplier, relative=settings.optimizer == "adam")

    def epoch(self, index: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, between its beginning and its end."""
        self.on_epoch_begin(index)
        yield from self.batches()
        self.on_epoch_end()

    def on_epoch_begin(self, index: int) -> None:
        """Note that an epoch begins, counted from 0."""
        self._epoch, self._sums, self._counted = index, {}, 0

    def batches(self) -> Iterator[Batch]:
        """As many batches as make an epoch."""
        for _ in range(self._source.batches_per_epoch):
            yield self._source.next_batch(self._student)

    def loss(self, batch: Batch, network: nn.Module | None = None) -> Tensor:
        """What the student is trained by: a scalar, the weighted sum of the losses in the settings.

        Args:
            batch: on any device.
            network: the student as something has wrapped it, such as ``DistributedDataParallel``; None for itself.

        Raises:
            InputError: it is not finite, or needs labels that the batch does not have.
        """
        batch = batch.to(next(self._student.parameters()))
        fastest = batch.images.contiguous(memory_format=torch.channels_last)  # the layout of the fastest convolutions
        batch = replace(batch, images=fastest)
        expected = self._answers.of(batch)
        found = (self._student if network is None else network)(batch.images)
        terms: dict[str, Tensor] = {
            name: weight * self._term(name, found, expected, batch)
            for name, weight in self._settings.loss_weights.items()
        }
        total = self._settings.loss_scale * sum(terms.values(), start=found.new_zeros(()))
        self._note({TOTAL: total, **(terms if len(terms) > 1 else {})}, batch.images)
        return total

    def after_step(self) -> None:
        """Note that the optimiser has taken a step."""
        self.steps += 1

    def on_epoch_end(self) -> None:
        """Check what has been learned and close the epoch's means.

        Raises:
            InputError: something that is trained is no longer finite.
        """
        for name, parameter in self._trained.named():
            self._require_finite(name, parameter)
        for name, value in self._sums.items():
            self._curves.setdefault(name, []).append(value / self._counted)

    def on_train_end(self) -> None:
        """Put the biases on the integer grid and give both networks back, with nothing left to train."""
        self.close()
        self._student.snap_biases()

    def close(self) -> None:
        """Give both networks back where training breaks off; the biases stay where they are."""
        self._open.close()

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss of every epoch that has ended."""
        return tuple(self._curves.get(TOTAL, ()))

    def curves(self) -> dict[str, tuple[float, ...]]:
        """One mean value per epoch: each loss where there are several, and what the source has to tell."""
        own = {f"loss.{name}": tuple(values) for name, values in self._curves.items() if name != TOTAL}
        return {**own, **self._source.curves()}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the optimiser that is needed to go on from the end of an epoch, bit for bit."""
        curves = {name: torch.tensor(values, dtype=torch.float64) for name, values in self._curves.items()}
        return {
            "steps": torch.tensor(self.steps),
            **under("student", dict(self._trained.named())),
            **under("source", self._source.state_dict()),
            **under("answers", self._answers.state_dict()),
            **under("curves", curves),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where other hooks, made alike, stood; call it before ``on_train_begin``.

        Raises:
            InputError: the state is that of another student.
        """
        self._source.load_state_dict(part("source", state))
        self._trained.load(part("student", state))
        self._answers.load_state_dict(part("answers", state))
        self._curves = {name: values.tolist() for name, values in part("curves", state).items()}
        self.steps = int(state["steps"])

    @property
    def _compares_features(self) -> bool:
        return bool({"feature", "attention"} & self._settings.loss_weights.keys())

    @torch.no_grad()
    def _calibrate(self, batches: int) -> None:
        like = next(self._student.parameters())
        with following_ranges(self._student):
            for _ in range(batches):
                self._student(self._source.next_batch(self._student).to(like).images)

    def _term(self, name: str, found: Tensor, expected: Tensor, batch: Batch) -> Tensor:
        settings = self._settings
        teacher_features, student_features = self._compared
        if name == "kl":
            return kl_loss(found, expected, settings.temperature, settings.kl_reduction)
        if name == "mse":
            return mse_loss(found, expected)
        if name == "cross_entropy":
            return cross_entropy_loss(found, batch.targets)
        if name == "disagreement":
            return disagreement_loss(found, expected, settings.temperature)
        return (feature_loss if name == "feature" else attention_loss)(student_features, teacher_features)

    def _note(self, scalars: Mapping[str, Tensor], images: Tensor) -> None:
        for name, scalar in scalars.items():
            self._require_finite("The loss" if name == TOTAL else f"The loss '{name}'", scalar, images)
            self._sums[name] = self._sums.get(name, 0.0) + scalar.item()
        self._counted += 1

    def _require_finite(self, what: str, values: Tensor, images: Tensor | None = None) -> None:
        if not bool(torch.isfinite(values).all()):
            lr = self._settings.lr
            msg = f"{what} is not finite in epoch {self._epoch}; lower finetune.lr (now {lr:g})."
            layer = None if images is None else first_broken_layer(self._student.network, images, ignored=HOOKS)
            if layer is not None:
                msg += f" The first layer of the student with such values is {layer}."
            raise InputError(msg)
