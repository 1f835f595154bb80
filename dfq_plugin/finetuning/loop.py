"""The loop of stage "finetune": one optimiser and one schedule around the hooks.

Nothing is selected by looking at results: the last step is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from dfq_plugin.batches import Batch, BatchSource, FixedBatches
from dfq_plugin.config import FinetuneSettings
from dfq_plugin.errors import ConfigError
from dfq_plugin.finetuning.hooks import FinetuneHooks
from dfq_plugin.processes import Processes, processes
from dfq_plugin.progress import track
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import digest_of
from dfq_plugin.tensor_files import write_tensors
from dfq_plugin.training_state import load_optimizer_state, optimizer_state, part, read_state, under

logger = logging.getLogger("nncf.dfq_plugin.finetune")


@dataclass(frozen=True)
class History:
    """How training went.

    Attributes:
        losses: the mean loss of every epoch.
        curves: further values, one per epoch: each loss where there are several, and what an online provider watches,
            such as ``generator.adaptability``.
    """

    losses: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def finetune(
    teacher: nn.Module,
    student: Student,
    data: SyntheticSet | BatchSource,
    settings: FinetuneSettings,
    checkpoint: Path | None = None,
    *,
    watch: Callable[[Mapping[str, Sequence[float]]], object] | None = None,
) -> History:
    """Distil the teacher into the student, in place.

    The processes of a job share every batch; what each learns is the same, but for the order in which gradients are
    added up.

    Args:
        teacher: the float network; never modified.
        student: its quantized copy; ends in eval mode with its biases back on the integer grid.
        data: the images to learn on, or batches of an online provider, whose generator learns along.
        settings: epochs, rates and losses.
        checkpoint: a file that is written after every epoch and gone in the end; where there is one already, a run that
            was killed goes on from it, with the same result as an unbroken one.
        watch: called after every epoch with all curves so far by name, ``distillation`` being the whole loss.

    Raises:
        ConfigError: the settings name a layer that the teacher does not have, or the images only stand in.
        InputError: the loss or a weight stops being finite, or the checkpoint is that of another run.
    """
    if settings.epochs == 0:
        return History(())
    source = as_source(data, settings)
    per_epoch = source.batches_per_epoch
    hooks = FinetuneHooks(teacher, student, source, settings)
    crew = processes()
    run = _describe(teacher, student, settings) if checkpoint is not None else {}
    state = read_state(checkpoint, run, "Fine-tuning", logger)
    if state:
        hooks.load_state_dict(part("hooks", state))
    with hooks, track(settings.epochs * per_epoch, "Fine-tuning") as bar:
        optimizer = make_optimizer(hooks.parameter_groups(), settings)
        schedule = make_schedule(optimizer, settings, per_epoch)
        if state:
            load_optimizer_state(optimizer, schedule, part("optimizer", state))
            bar.advance(hooks.steps)
        crew.copy_from_main(student.parameters())
        for epoch in range(hooks.steps // per_epoch, settings.epochs):
            for batch in hooks.epoch(epoch):
                _step(hooks, batch, optimizer, crew)
                schedule.step()
                bar.advance()
            if checkpoint is not None and crew.is_main:
                kept = under("hooks", hooks.state_dict()) | under("optimizer", optimizer_state(optimizer, schedule))
                write_tensors(checkpoint, kept, run)
            if watch is not None and crew.is_main:
                watch({"distillation": hooks.losses, **hooks.curves()})
    if checkpoint is not None and crew.is_main:
        checkpoint.unlink(missing_ok=True)
    losses = hooks.losses
    logger.info("Fine-tuned for %d epochs: loss %.4f -> %.4f.", settings.epochs, losses[0], losses[-1])
    return History(losses, hooks.curves())


def _step(hooks: FinetuneHooks, batch: Batch, optimizer: Optimizer, crew: Processes) -> None:
    """Let all processes take the step that the whole batch asks for."""
    optimizer.zero_grad()
    _backward(hooks, batch, crew)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    crew.average(parameter.grad for parameter in parameters if parameter.grad is not None)
    optimizer.step()
    hooks.after_step()


def _backward(hooks: FinetuneHooks, batch: Batch, crew: Processes) -> None:
    """Add the gradients of this process's part of a batch, weighted so that the mean over all is that of the batch."""
    count, parts = len(batch), crew.count
    if count < parts:  # too few to share: each process does them all
        hooks.loss(batch).backward()
        return
    own = batch.part(crew.rank * count // parts, (crew.rank + 1) * count // parts)
    (hooks.loss(own) * (len(own) * parts / count)).backward()


def as_source(data: SyntheticSet | BatchSource, settings: FinetuneSettings) -> BatchSource:
    """The batches of a synthetic set as the settings want them; a source stays as it is.

    Raises:
        ConfigError: the images of the set only stand in.
    """
    if not isinstance(data, SyntheticSet):
        return data
    if not data.informative:
        msg = (
            f"Fine-tuning learns from images, and those of provider '{data.provenance.provider}' only stand in; choose "
            "another provider, or set finetune.epochs to 0."
        )
        raise ConfigError(msg)
    return FixedBatches(
        data,
        settings.batch_size,
        settings.seed,
        augment=settings.augment,
        batches_per_epoch=settings.steps_per_epoch,
    )


def make_optimizer(groups: list[dict[str, object]], settings: FinetuneSettings) -> Optimizer:
    """The optimiser that the settings name, for groups that bring their own rates."""
    if settings.optimizer == "sgd":
        momentum, decay = settings.momentum, settings.weight_decay
        return torch.optim.SGD(groups, momentum=momentum, nesterov=True, weight_decay=decay)
    return torch.optim.Adam(groups)


def make_schedule(optimizer: Optimizer, settings: FinetuneSettings, steps_per_epoch: int) -> LRScheduler:
    """The schedule that the settings name, to be stepped after every step of the optimiser."""
    if settings.schedule == "steps":
        return MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in settings.milestones], gamma=0.1)
    return CosineAnnealingLR(optimizer, settings.epochs * steps_per_epoch)


def _describe(teacher: nn.Module, student: Student, settings: FinetuneSettings) -> dict[str, str]:
    """Everything that has to be the same for a run to go on from a checkpoint."""
    return {
        "settings": settings.model_dump_json(),
        "teacher": digest_of(teacher),
        "student": digest_of(student.network),
    }
