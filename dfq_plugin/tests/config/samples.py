"""Small config files, and the questions that tests ask about them."""

from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.config import Config, load_config
from dfq_plugin.errors import ConfigError

BASE: dict[str, Any] = {"model": {"source": "timm:tiny"}, "input_shape": [3, 8, 8]}


def load(*overrides: str, **parts: Any) -> Config:
    """The smallest config with some parts added or replaced."""
    return load_config(BASE | parts, overrides)


def load_compression(**fields: Any) -> Config:
    """The smallest config with an NNCF 2.x quantization algorithm."""
    return load(compression={"algorithm": "quantization", **fields})


def problem(*overrides: str, **parts: Any) -> str:
    """The message that refuses a config."""
    with pytest.raises(ConfigError) as caught:
        load(*overrides, **parts)
    return str(caught.value)


def compression_problem(**fields: Any) -> str:
    """The message that refuses an NNCF 2.x quantization algorithm."""
    return problem(compression={"algorithm": "quantization", **fields})


def levels_at(config: Config, pointer: str) -> list[str]:
    """The levels of the notes about one place."""
    return [note.level for note in config.notes if note.pointer == pointer]


def value_of(config: Config, name: str) -> Any:
    """A setting by its dotted name."""
    value: Any = config.resolved()
    for key in name.split("."):
        value = value[key]
    return value
