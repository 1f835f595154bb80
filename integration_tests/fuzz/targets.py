"""What is fuzzed: each target takes any bytes and either reads them or refuses them with one of the package's errors.

Anything else that is raised is a finding. The targets need no fuzzer: the test suite runs them over the corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from dfq_plugin.checkpoints import read_weights
from dfq_plugin.config import convert, explain, load_config
from dfq_plugin.config.legacy import homes
from dfq_plugin.errors import DFQError
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.validation.census import take_census
from dfq_plugin.validation.runtime import load_proto, size_on_disk

Choice = TypeVar("Choice")
MAX_DEPTH = 6
TEXTS = ("quantization", "INT8", "symmetric", "asymmetric", "per_channel", "mean_min_max", "CPU", "*", "{re}.*", "")


def config(data: bytes) -> None:
    """A config file of any content."""
    with _file(data, ".json") as path, suppress(DFQError):
        explain(load_config(path))


def legacy(data: bytes) -> None:
    """A config that is well-formed: the keys of NNCF 2.x and of the plug-in in any places, with any values."""
    document = Source(data).mapping(0)
    document.setdefault("model", {"source": "timm:any"})
    document.setdefault("input_info", {"sample_size": [1, 3, 8, 8]})
    with suppress(DFQError):
        load_config(document)
    with suppress(DFQError):
        convert(document)


def tensors(data: bytes) -> None:
    """A safetensors file of any content, as weights and as a synthetic set."""
    with _file(data, ".safetensors") as path:
        with suppress(DFQError):
            read_weights(path)
        with suppress(DFQError):
            SyntheticSet.load(path)


def model(data: bytes) -> None:
    """An ONNX file of any content, as ``dfq validate`` first meets it."""
    with _file(data, ".onnx") as path, suppress(DFQError):
        load_proto(path)
        size_on_disk(path)
        take_census(path)


TARGETS: dict[str, Callable[[bytes], None]] = {"config": config, "legacy": legacy, "tensors": tensors, "model": model}


class Source:
    """Turns bytes into plain data, one choice a byte; when they run out, every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)
        self._keys = sorted(homes())

    def below(self, count: int) -> int:
        """A number from 0 to ``count`` - 1, of up to two bytes."""
        number = next(self._bytes, 0)
        if count > 256:
            number = number * 256 + next(self._bytes, 0)
        return number % count

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of some choices."""
        return choices[self.below(len(choices))]

    def mapping(self, depth: int) -> dict[str, Any]:
        """An object with keys that configs know."""
        return {self.pick(self._keys): self.value(depth + 1) for _ in range(self.below(6))}

    def value(self, depth: int) -> Any:
        """Any JSON value."""
        kind = self.below(9 if depth < MAX_DEPTH else 6)
        if kind < 6:
            number = self.below(1000)
            simple = (None, number % 2 == 1, number, -number, number / 100, TEXTS[number % len(TEXTS)])
            return simple[kind]
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.below(5))]
        return self.mapping(depth)


@contextmanager
def _file(data: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"input{suffix}"
        path.write_bytes(data)
        yield path
