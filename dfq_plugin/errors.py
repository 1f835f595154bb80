"""What can go wrong, one class a kind; every message says what, with which value, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class DFQError(Exception):
    """Base of every error this package raises on purpose; ``exit_code`` is what the ``dfq`` command ends with."""

    exit_code = 2


class ConfigError(DFQError, ValueError):
    """A setting is unknown, out of range, or contradicts another one.

    Attributes:
        problems: each by itself, where a message tells of several.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class InputError(DFQError, ValueError):
    """Something that was handed in (a file, a folder, a tensor) cannot be used."""


class OutputError(DFQError, OSError):
    """A file cannot be written; what was there before is kept. Takes an error number and a message, as OSError does."""

    def __str__(self) -> str:
        return str(self.args[-1])


class MemoryLimitError(DFQError, MemoryError):
    """Memory ran out; nothing that was finished is lost."""


class ProcessLostError(DFQError, RuntimeError):
    """Another process of the job has ended; what was finished is kept."""


class UnsupportedModelError(DFQError, TypeError):
    """The network cannot be used for what was asked."""

    exit_code = 3


class ProviderContractError(DFQError, RuntimeError):
    """A provider broke its contract: wrong shape, not finite, teacher left changed."""


class DivergedError(ProviderContractError):
    """A provider's loss stopped being finite; ``images`` are those it happened on."""

    def __init__(self, message: str, images: Any) -> None:  # noqa: ANN401 - a tensor: nothing here imports torch
        super().__init__(message)
        self.images = images


class ExportError(DFQError, RuntimeError):
    """The student cannot be written as an integer ONNX file."""

    exit_code = 3


class ValidationError(DFQError, RuntimeError):
    """The exported file does not do what was asked: float layers, or codes that differ from the reference."""

    exit_code = 4
