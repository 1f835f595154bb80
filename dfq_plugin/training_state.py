"""The state of training as named tensors, so that it can be kept in one safetensors file and read back bit by bit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dfq_plugin.errors import InputError
from dfq_plugin.tensor_files import read_tensors

RATES, STEP = "rates", "step"


def read_state(
    path: Path | None, run: Mapping[str, str], work: str, logger: logging.Logger, *, needed: Collection[str] = ()
) -> dict[str, Tensor]:
    """What a killed run kept, for the same run to go on from; nothing where there is no such file or a damaged one.

    Args:
        path: of the file; None where nothing is kept.
        run: everything that has to be the same, as the file's metadata says it.
        work: what goes on, the first word of a message.
        logger: is told.
        needed: tensors without which the file is that of another run.

    Raises:
        InputError: the file is that of another run.
    """
    if path is None or not path.exists():
        return {}
    try:
        state, metadata = read_tensors(path, own=True)
    except InputError as error:
        logger.warning("%s begins anew: %s", work, error)
        return {}
    others = [name for name in run if metadata.get(name) != run[name]] or [name for name in needed if name not in state]
    if others:
        msg = f"{path} is of a run with other {' and other '.join(others)}; delete it to begin anew."
        raise InputError(msg)
    logger.info("%s goes on from %s.", work, path)
    return state


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with a prefix before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def part(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}


def optimizer_state(optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Tensor]:
    """Moments, counts and rates of an optimiser, and how far its schedule is."""
    state = {
        f"{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None  # SGD without momentum keeps a place for it
    }
    state[RATES] = torch.tensor([group["lr"] for group in optimizer.param_groups], dtype=torch.float64)
    state[STEP] = torch.tensor(schedule.last_epoch)
    return state


def load_optimizer_state(optimizer: Optimizer, schedule: LRScheduler, state: Mapping[str, Tensor]) -> None:
    """Let a new optimiser and schedule, made alike, go on from where others stood."""
    entries: dict[int, dict[str, Any]] = {}
    for name, tensor in state.items():
        index, _, key = name.partition(".")
        if key:
            entries.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, rate in zip(optimizer.param_groups, state[RATES].tolist(), strict=True):
        group["lr"] = rate
    schedule.last_epoch = int(state[STEP])  # rates of later steps follow from those of this one
