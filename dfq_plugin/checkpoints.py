"""Trained weights from a file into a network, with every name and shape accounted for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dfq_plugin.errors import InputError
from dfq_plugin.tensor_files import read_tensors

SUFFIXES = (".safetensors", ".pt", ".pth")
WRAPPINGS = ("state_dict", "model_state_dict", "model")  # under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every name
MAX_LISTED = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network from a ``.safetensors``, ``.pt`` or ``.pth`` file; no code in it is run.

    A dictionary around the weights (``state_dict``, ``model_state_dict`` or ``model``) and the prefixes ``module.`` and
    ``_orig_mod.`` are taken off.

    Raises:
        InputError: The file is missing, or is not such a file, or holds something other than named tensors.
    """
    if path.suffix not in SUFFIXES:
        msg = f"Weights are read from files named {', '.join(SUFFIXES)}, got {path}."
        raise InputError(msg)
    if not path.is_file():
        msg = f"There is no weights file {path}."
        raise InputError(msg)
    content: object = read_tensors(path)[0] if path.suffix == ".safetensors" else _read_torch_file(path)
    for key in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        msg = f"{path} does not hold weights, a dictionary of tensors by name; save network.state_dict()."
        raise InputError(msg)
    weights = {str(name): tensor for name, tensor in content.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a network when every one of them fits.

    Args:
        network: Changed in place.
        weights: Tensors by name.
        source: What to call them in a message.

    Raises:
        InputError: A weight is missing, left over, of another shape, or not finite; nothing has been changed.
    """
    expected = network.state_dict()
    # Files from before PyTorch 0.4.1 lack this count, which is not used in eval mode.
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"'{name}' is {tuple(weights[name].shape)}, the network has {tuple(expected[name].shape)}"
        for name in find_misshapen(network, weights)
    ]
    problems = [
        *_listed("missing", [f"'{name}'{_nearest(name, unexpected)}" for name in missing]),
        *_listed("not in the network", [f"'{name}'{_nearest(name, missing or expected)}" for name in unexpected]),
        *_listed("of another shape", shapes),
    ]
    if problems:
        msg = f"The weights in {source} do not fit {type(network).__name__}: {'; '.join(problems)}."
        raise InputError(msg)
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        msg = f"The weights in {source} hold values that are not finite: {', '.join(broken[:MAX_LISTED])}."
        raise InputError(msg)
    network.load_state_dict(weights, strict=False)


def find_misshapen(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Name the weights that are in both but differ in shape."""
    expected = network.state_dict()
    return [name for name in expected if name in weights and weights[name].shape != expected[name].shape]


def find_class_count(network: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """Tell for how many classes weights were trained, when that is all in which they differ from a network.

    Returns:
        The number of classes, or None when there is no difference or another one.
    """
    expected = network.state_dict()
    pairs = [(weights[name].shape, expected[name].shape) for name in find_misshapen(network, weights)]
    if not pairs or any(found[1:] != wanted[1:] or not found or not wanted for found, wanted in pairs):
        return None
    counts = {(found[0], wanted[0]) for found, wanted in pairs}
    return next(iter(counts))[0] if len(counts) == 1 else None


def _read_torch_file(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - no code in the file is run
    except Exception as error:  # broken and foreign files fail in many ways
        msg = (
            f"{path} cannot be read as weights ({type(error).__name__}). Files that hold whole networks or other "
            "Python objects are refused, since reading them runs code; save network.state_dict() instead."
        )
        raise InputError(msg) from error


def _listed(what: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    more = f" and {len(entries) - MAX_LISTED} more" if len(entries) > MAX_LISTED else ""
    return [f"{len(entries)} {what}: {', '.join(entries[:MAX_LISTED])}{more}"]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (nearest: '{close[0]}')" if close else ""
