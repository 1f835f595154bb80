"""How a generation went, in few enough numbers to travel in the provenance of the set that it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

POINTS = 200  # of a curve at most: more than that nobody sees
DIGITS = 6


def curves_of(history: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Average the terms of a loss over batches, and over windows of steps where there are many.

    Args:
        history: For each batch, each term before every step, (steps,); a term may be missing in some batches.

    Returns:
        JSON-able: ``at``, the middle step of each window, counted from 1, and ``values``, one list for each term; empty
        when there was no step.
    """
    names = list(dict.fromkeys(name for terms in history for name in terms))
    means = {name: torch.stack([terms[name] for terms in history if name in terms]).double().mean(0) for name in names}
    steps = len(means[names[0]]) if names else 0
    if not steps:
        return {}
    windows = min(steps, POINTS)
    middles = [(int(window[0]) + int(window[-1])) // 2 + 1 for window in torch.arange(steps).tensor_split(windows)]
    values = {name: [_short(part.mean().item()) for part in mean.tensor_split(windows)] for name, mean in means.items()}
    return {"at": middles, "values": values}


def find_curves(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect the curves in a provenance, and those of the providers that it chose or consists of.

    Args:
        provenance: as a dictionary; what it holds under ``curves`` that is no such thing is passed over.

    Returns:
        ``{"provider": ..., "at": ..., "values": ...}`` for each provider that kept curves.
    """
    details = provenance.get("details") or {}
    curves = details.get("curves")
    own = [{"provider": provenance["provider"], **dict(curves or {})}] if _are_curves(curves) else []
    inner = [details["chosen"]] if "chosen" in details else details.get("parts", ())
    return own + [found for part in inner if isinstance(part, Mapping) for found in find_curves(part)]


def without_curves(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The same provenance for people to read."""
    return {name: _without(value) for name, value in provenance.items()}


def _without(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return {name: _without(inner) for name, inner in value.items() if not _are_curves(inner)}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _are_curves(value: object) -> bool:
    if not isinstance(value, Mapping) or value.keys() != {"at", "values"} or not isinstance(value["values"], Mapping):
        return False
    at, series = value["at"], list(value["values"].values())
    return all(isinstance(numbers, list) and len(numbers) == len(at) for numbers in [at, *series])


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
