"""Borrowed state goes back: what a forward pass or a provider may disturb, and how it is put right."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

HOOK_TABLES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode with gradients off for its weights; modes and flags go back as they were."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    network.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training  # module by module: a network may hold some of its layers in eval mode
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


@contextmanager
def untouched_random_state(network: nn.Module) -> Iterator[None]:
    """Give the caller's global random states back: torch (with the network's device), Python and NumPy."""
    devices = {parameter.device.index for parameter in network.parameters() if parameter.device.type == "cuda"}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state is the caller's
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - the state is the caller's


class Snapshot:
    """Modes, flags, gradients, weights, buffers and hooks of a network at one moment.

    Args:
        network: The network to remember; its tensors are copied.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._modes = {name: module.training for name, module in network.named_modules()}
        self._hooks = {
            (name, table): OrderedDict(getattr(module, table))
            for name, module in network.named_modules()
            for table in HOOK_TABLES
        }
        self._flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        self._grads = {name: parameter.grad for name, parameter in network.named_parameters()}
        self._values = {name: tensor.detach().clone() for name, tensor in _tensors(network)}

    def restore(self) -> list[str]:
        """Put the network back and name, in words, everything that had been changed."""
        return [*self._restore_modules(), *self._restore_flags(), *self._restore_values()]

    def _restore_modules(self) -> Iterator[str]:
        modules = dict(self._network.named_modules())
        if modules.keys() != self._modes.keys():
            yield f"layers {sorted(modules.keys() ^ self._modes.keys())} added or removed"
        for name, module in modules.items():
            if name in self._modes and module.training != self._modes[name]:
                yield f"training mode of '{name}'"
                module.training = self._modes[name]
            for table in HOOK_TABLES:
                hooks, before = getattr(module, table), self._hooks.get((name, table))
                if before is not None and hooks != before:
                    yield f"hooks of '{name}' ({len(before)} before, {len(hooks)} after)"
                    hooks.clear()
                    hooks.update(before)

    def _restore_flags(self) -> Iterator[str]:
        for name, parameter in self._network.named_parameters():
            if name in self._flags and parameter.requires_grad != self._flags[name]:
                yield f"requires_grad of '{name}'"
                parameter.requires_grad_(self._flags[name])
            if name in self._grads and parameter.grad is not self._grads[name]:
                yield f"grad of '{name}'"
                parameter.grad = self._grads[name]

    def _restore_values(self) -> Iterator[str]:
        for name, tensor in _tensors(self._network):
            if name in self._values and not _same(tensor, self._values[name]):
                yield f"values of '{name}'"
                tensor.data = self._values[name]


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return False
    if torch.equal(left, right):
        return True
    # A buffer may legitimately hold NaN, which differs from itself.
    return left.is_floating_point() and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
