"""The distillation loop: weights, biases and quantizer ranges follow the teacher's logits.

The labels of the synthetic set are not used, and nothing is selected by looking at results: the last step is kept.

Learning rates are relative: each tensor's own rate is the setting times the root mean square of its values (as in
Adafactor, arXiv:1804.04235, section 8). Folded BatchNorm spreads the magnitudes of weights over decades and a clipping
range may be a thousand times a weight: no absolute rate suits them all, and one that suits a range wrecks a weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfq_plugin.config import FinetuneSettings
from dfq_plugin.errors import InputError
from dfq_plugin.finetuning.losses import kl_loss, mse_loss
from dfq_plugin.network_state import frozen
from dfq_plugin.progress import track
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet

MIRROR_PROBABILITY = 0.5
logger = logging.getLogger("nncf.dfq_plugin.finetune")


@dataclass(frozen=True)
class History:
    """The mean loss of every epoch."""

    losses: tuple[float, ...]


def finetune(teacher: nn.Module, student: Student, synthetic: SyntheticSet, settings: FinetuneSettings) -> History:
    """Distil the teacher into the student, in place.

    Args:
        teacher: the float network; never modified.
        student: its quantized copy; ends in eval mode with its biases back on the integer grid.
        synthetic: the images to learn on.
        settings: epochs, rates and loss.

    Raises:
        InputError: the loss or a weight stops being finite.
    """
    losses: list[float] = []
    steps = settings.epochs * _batches_per_epoch(len(synthetic), settings.batch_size)
    if steps == 0:
        return History(())
    generator = torch.Generator().manual_seed(settings.seed)
    device = next(student.parameters()).device
    student.eval()
    with _trainable(student, settings) as groups, frozen(teacher), track(steps, "Fine-tuning") as bar:
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(settings.epochs):
            epoch_losses = []
            for batch in _shuffled(synthetic.images, settings, generator):
                if settings.augment:
                    batch = _moved(batch, generator)  # noqa: PLW2901 - the batch as it is used
                loss = _distillation_loss(teacher, student, batch.to(device), settings)
                _require_finite("The loss", loss, epoch, settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                epoch_losses.append(loss.item())
                bar.advance()
            losses.append(sum(epoch_losses) / len(epoch_losses))
            for name, parameter in student.network.named_parameters():
                _require_finite(name, parameter, epoch, settings)
    student.snap_biases()
    logger.info("Fine-tuned for %d epochs: loss %.4f -> %.4f.", settings.epochs, losses[0], losses[-1])
    return History(tuple(losses))


def _require_finite(what: str, values: Tensor, epoch: int, settings: FinetuneSettings) -> None:
    if not bool(torch.isfinite(values).all()):
        msg = f"{what} is not finite in epoch {epoch}; lower finetune.lr (now {settings.lr:g})."
        raise InputError(msg)


def _distillation_loss(teacher: nn.Module, student: Student, batch: Tensor, settings: FinetuneSettings) -> Tensor:
    with torch.no_grad():
        target = teacher(batch)
    logits = student(batch)
    distance = kl_loss(logits, target, settings.temperature) if settings.loss == "kl" else mse_loss(logits, target)
    return settings.loss_scale * distance


def _batches_per_epoch(images: int, batch_size: int) -> int:
    return max(1, images // batch_size)


def _shuffled(images: Tensor, settings: FinetuneSettings, generator: torch.Generator) -> Iterator[Tensor]:
    """Whole batches in a new order each epoch; one smaller batch when there are fewer images than a batch."""
    order = torch.randperm(len(images), generator=generator)
    for index in range(_batches_per_epoch(len(images), settings.batch_size)):
        yield images[order[index * settings.batch_size :][: settings.batch_size]]


def _moved(batch: Tensor, generator: torch.Generator) -> Tensor:
    """The batch shifted by up to a tenth of its size, around the edges, and mirrored half of the time.

    The teacher labels whatever it is shown, so a shifted image is as good an example as the one it came from.
    """
    reach = [size // 10 for size in batch.shape[-2:]]
    down, right = (int(torch.randint(-most, most + 1, (), generator=generator)) for most in reach)
    if torch.rand((), generator=generator) < MIRROR_PROBABILITY:
        batch = batch.flip(-1)
    return batch.roll((down, right), (-2, -1))


@contextmanager
def _trainable(student: Student, settings: FinetuneSettings) -> Iterator[list[dict[str, object]]]:
    """Let gradients reach weights, biases and quantizer ranges, in two groups; nothing is trainable afterwards."""
    names = [name for layer in student.layers for name in (layer.weight, layer.bias) if name is not None]
    weights = [student.network.get_parameter(name) for name in dict.fromkeys(names)]
    ranges = [
        parameter
        for _, quantizer in student.quantizers()
        if quantizer.is_enabled_quantization()
        for parameter in quantizer.get_trainable_params().values()
    ]
    for parameter in (*weights, *ranges):
        parameter.requires_grad_(requires_grad=True)
    try:
        yield [
            *(_group(weight, settings.lr) for weight in weights),
            *(_group(parameter, settings.lr * settings.range_lr_multiplier) for parameter in ranges),
        ]
    finally:
        for parameter in (*weights, *ranges):
            parameter.requires_grad_(requires_grad=False)


def _group(parameter: nn.Parameter, relative_rate: float) -> dict[str, object]:
    size = parameter.detach().square().mean().sqrt().item()
    return {"params": [parameter], "lr": relative_rate * size}
