"""The papers' way with a student: their quantizer, all layers at k bits, and fine-tuning that ends at the last step.

Weights have a zero point and min-max ranges that are taken anew at every step, activations are quantized behind ReLUs
only, and moving extremes of the first batches set their ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cifar import SHAPE, params_of
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.finetuning import History
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet

ONLINE = ("gdfq", "qimera", "adadfq")


@dataclass(frozen=True)
class Budget:
    """How long a student learns, equal for every method that is compared.

    Attributes:
        epochs: of the student; those in which an online generator learns alone come on top.
        steps: batches an epoch.
        batch: images a batch.
        settings: what else fine-tuning is told.
        paper: whether providers take the papers' steps too, instead of those that a CPU can afford.
    """

    epochs: int
    steps: int
    batch: int
    settings: dict[str, Any]
    paper: bool = False

    def describe(self) -> dict[str, Any]:
        """What tells rows of different budgets apart."""
        return {"steps": self.epochs * self.steps, "batch": self.batch}


SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-4, "weight_decay": 1e-4, "schedule": "steps"}  # of both papers
CPU = Budget(epochs=4, steps=50, batch=32, settings={})
# IntraQ's budget for CIFAR-10, with the weight of its distillation loss; AdaDFQ's has batches of 16 and 400 epochs.
PAPER = Budget(
    epochs=151,
    steps=200,
    batch=256,
    paper=True,
    settings={
        **SGD,
        "milestones": (20, 40, 60),
        "losses": {"cross_entropy": 1.0, "kl": 20.0},
        "temperature": 20.0,
    },
)


def quantize(teacher: nn.Module, images: SyntheticSet, bits: int) -> Student:
    """The papers' quantizer on every layer, calibrated on a set."""
    return dfq.quantize(
        teacher,
        images,
        weight_bits=bits,
        activation_bits=bits,
        first_last_bits=None,
        placement="relu_only",
        rounding="nearest",
        activation_range="min_max",
        bias_correction="none",
    )


def learn(
    teacher: nn.Module,
    student: Student,
    provider: str,
    images: SyntheticSet,
    budget: Budget,
    *,
    seed: int,
    params: dict[str, Any] | None = None,
) -> History:
    """Distil the teacher into the student: on a set, or on batches of a generator that learns along.

    Args:
        teacher: the network.
        student: its quantized copy, trained in place.
        provider: its name decides whether batches come from a generator.
        images: the set of all other providers.
        budget: how long.
        seed: of the order of the images and of the generator.
        params: further settings of the generator.
    """
    settings = {"batch_size": budget.batch, "epochs": budget.epochs, "calibration_batches": 8, "seed": seed}
    settings |= {"weight_range": "min_max", **budget.settings}
    if provider not in ONLINE:
        return dfq.finetune(teacher, student, images, steps_per_epoch=budget.steps, **settings)
    chosen = {**params_of(provider, paper=budget.paper), **(params or {})}
    chosen |= {"batch_size": budget.batch, "steps_per_epoch": budget.steps}
    source = dfq.learning_source(teacher, provider=provider, input_shape=SHAPE, seed=seed, params=chosen)
    return dfq.finetune(teacher, student, source, **settings)
