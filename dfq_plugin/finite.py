"""Numbers that are not finite or say nothing: found where they arise, and told by the name of the layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MAX_LISTED = 5
PART = 64  # images, or whatever the first axis counts, that are looked at together


def all_finite(values: Tensor) -> bool:
    """Whether every value is finite, looked at in parts, so that a large set needs little memory beside it."""
    return all(bool(torch.isfinite(part).all()) for part in (values.split(PART) if values.ndim else [values]))


def broken_tensors(network: nn.Module) -> list[str]:
    """Names of the weights and buffers that hold NaN or Inf, and of variances below zero."""
    found = [name for name, tensor in network.state_dict().items() if not _is_finite(tensor)]
    negative = (
        f"{name}.running_var (below zero)"
        for name, norm in _norms(network)
        if norm.running_var is not None and bool((norm.running_var < 0).any())
    )
    return [*found, *negative]


def silent_channels(network: nn.Module) -> list[str]:
    """Layers with channels that never vary, in words: BatchNorm saw no variance there, or the weights are zero."""
    found = []
    for name, norm in _norms(network):
        if norm.running_var is not None and (still := int((norm.running_var == 0).sum())):
            found.append(f"{name} ({still} of {norm.num_features} channels without variance)")
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and isinstance(weight, Tensor):  # noqa: SLF001
            axis = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0  # noqa: SLF001
            rows = weight.detach().transpose(0, axis).flatten(1)
            if dead := int((rows == 0).all(dim=1).sum()):
                found.append(f"{name} ({dead} of {len(rows)} channels have no weight)")
    return found


@torch.no_grad()
def first_broken_layer(network: nn.Module, images: Tensor, ignored: str = "") -> str | None:
    """Name the first layer, in order of execution, that makes NaN or Inf of these images; None when none does.

    Args:
        network: In any mode, which stays as it is.
        images: (N, C, H, W), on any device.
        ignored: Where the names of modules begin that are no layers of the network; empty for none.
    """
    if not _is_finite(images):
        return "the images themselves"
    broken: list[str] = []
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if next(module.children(), None) is None and not (ignored and name.startswith(ignored)):

                def look(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:  # noqa: ANN401
                    if not broken and isinstance(output, Tensor) and not _is_finite(output):
                        broken.append(name)

                hooks.callback(module.register_forward_hook(look).remove)
        like = next(network.parameters(), images)
        output = network(images.to(like))
    if broken:
        return broken[0]
    return None if not isinstance(output, Tensor) or _is_finite(output) else "an operator between the layers"


def listed(names: list[str]) -> str:
    """The first few names, as a message shows them."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _norms(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm))


def _is_finite(tensor: object) -> bool:
    return not isinstance(tensor, Tensor) or not tensor.is_floating_point() or all_finite(tensor)
