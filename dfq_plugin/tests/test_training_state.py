"""Optimisers go on from a kept state as if they had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from dfq_plugin.tensor_files import read_tensors, write_tensors
from dfq_plugin.training_state import load_optimizer_state, optimizer_state, part, under

Kind = tuple[Callable[[list[dict[str, object]]], Optimizer], Callable[[Optimizer], LRScheduler]]
KINDS: dict[str, Kind] = {
    "adam_cosine": (Adam, lambda optimizer: CosineAnnealingLR(optimizer, 10)),
    "nesterov_steps": (
        lambda groups: SGD(groups, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda optimizer: MultiStepLR(optimizer, [3, 7], gamma=0.1),
    ),
    "plain_sgd": (SGD, lambda optimizer: CosineAnnealingLR(optimizer, 10)),
}


def start(kind: Kind, values: Tensor) -> tuple[nn.Parameter, Optimizer, LRScheduler]:
    parameter, idle = nn.Parameter(values.clone()), nn.Parameter(torch.zeros(2))
    optimizer = kind[0]([{"params": [parameter], "lr": 0.1}, {"params": [idle], "lr": 0.7}])
    return parameter, optimizer, kind[1](optimizer)


def take(steps: int, parameter: nn.Parameter, optimizer: Optimizer, schedule: LRScheduler) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter - 3.0).square().sum().backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("done", [1, 4])
def test_resumed_run_equals_unbroken_one_bit_for_bit(name: str, done: int, tmp_path: Path) -> None:
    kind = KINDS[name]
    parameter, optimizer, schedule = start(kind, torch.tensor([0.3, -1.7]))
    take(done, parameter, optimizer, schedule)
    write_tensors(tmp_path / "state", {"parameter": parameter, **optimizer_state(optimizer, schedule)})
    take(10 - done, parameter, optimizer, schedule)
    state, _ = read_tensors(tmp_path / "state")
    resumed, other, other_schedule = start(kind, state.pop("parameter"))
    load_optimizer_state(other, other_schedule, state)
    take(10 - done, resumed, other, other_schedule)
    assert torch.equal(resumed, parameter)
    assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in optimizer.param_groups]


def test_parts_come_out_as_they_went_in() -> None:
    inner = {"a.b": torch.tensor(1), "a": torch.tensor(2)}
    together = under("one", inner) | under("on", {"e.a": torch.tensor(3)})
    assert part("one", together) == inner
    assert part("on", together).keys() == {"e.a"}
