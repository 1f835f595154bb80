"""Named sets of defaults: what a paper prints, what its authors' scripts run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fill_from_preset(values: Any, presets: Mapping[str, Mapping[str, Any]], default: str) -> Any:  # noqa: ANN401
    """Fill the settings that were left out, or given as None, from the preset that the settings name.

    Args:
        values: What the user gave, before pydantic has looked at it; returned as it is unless it is a mapping.
        presets: The values of each preset.
        default: The preset when ``values`` names none.
    """
    if not isinstance(values, Mapping):
        return values
    # A wrong name is refused by the field itself; it must not bring further complaints with it.
    filled = presets.get(str(values.get("preset", default)), presets[default])
    return {**filled, **{name: value for name, value in values.items() if name not in filled or value is not None}}
