"""How the step size changes while images are optimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

LearningRateRule = Callable[[Optimizer], Callable[[float], object]]


def reduce_on_plateau(patience: int, min_learning_rate: float) -> LearningRateRule:
    """Divide the step size by ten whenever the loss has not improved for ``patience`` steps."""

    def rule(optimizer: Optimizer) -> Callable[[float], object]:
        return ReduceLROnPlateau(optimizer, factor=0.1, patience=patience, min_lr=min_learning_rate).step

    return rule


def warm_up_and_cosine(stages: Sequence[int], warm_up: int) -> LearningRateRule:
    """Let the step size rise linearly and then fall along a cosine to zero, anew in every stage.

    Args:
        stages: Steps of each stage.
        warm_up: Steps over which it rises, at most a tenth of the stage.
    """
    places = [(step, steps) for steps in stages for step in range(steps)]

    def factor(step: int) -> float:
        place, steps = places[min(step, len(places) - 1)]  # the scheduler asks once more after the last step
        rising = min(warm_up, steps // 10)
        if place < rising:
            return (place + 1) / rising
        return (1 + math.cos(math.pi * (place - rising) / (steps - rising))) / 2

    def rule(optimizer: Optimizer) -> Callable[[float], object]:
        scheduler = LambdaLR(optimizer, factor)
        return lambda _loss: scheduler.step()

    return rule


def constant(_optimizer: Optimizer) -> Callable[[float], object]:
    """Leave the step size as it is."""
    return lambda _loss: None
