"""From a file, a mapping and ``--set`` texts to plain data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfq_plugin.errors import ConfigError

MAX_BYTES = 2**20  # of a config file; those of large networks with every layer named have some ten thousand
MAX_DEPTH = 32  # of objects and lists in each other
BRACKETS = re.compile(r"[][{}]")
JSON5_ERROR = re.compile(r"<string>:(?P<line>\d+) (?P<what>.*) at column (?P<column>\d+)$", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """One ``a.b=c``: the keys, the value, and the text to name it by."""

    path: tuple[str, ...]
    value: Any
    label: str


def read_document(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Read a config into plain data, and say what to call it in messages.

    Args:
        source: path of a file in JSON with comments, or its content as a mapping, which is copied.

    Raises:
        ConfigError: the file is missing, unreadable or has a syntax error, or it holds no object.
    """
    label = "config" if isinstance(source, Mapping) else str(source)
    document = _copy_as_json(source) if isinstance(source, Mapping) else _parse(_read_text(Path(source)), label)
    if not isinstance(document, dict):
        msg = f"{label}: holds {_kind(document)}, expected an object {{...}} with the sections of a config."
        raise ConfigError(msg)
    return document, label


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            msg = f"{path}: larger than {MAX_BYTES // 2**10} KiB, which no config file is."
            raise ConfigError(msg)
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        msg = f"{path}: no such file; relative paths start at the working directory, {Path.cwd()}."
        raise ConfigError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read as a UTF-8 text file: {error}."
        raise ConfigError(msg) from error


def _parse(text: str, label: str) -> Any:  # noqa: ANN401 - any JSON value
    import json5  # noqa: PLC0415 - only files need it, and it takes a while to import

    _check_depth(text, label)
    try:
        return json5.loads(text, allow_duplicate_keys=False)
    except ValueError as error:
        found = JSON5_ERROR.search(str(error))
        where = f"{label}:{found['line']}:{found['column']}" if found else label
        what = found["what"] if found else str(error)
        msg = f"{where}: syntax error: {what}. The format is JSON, with // comments allowed."
        raise ConfigError(msg) from error
    except RecursionError as error:
        raise ConfigError(_too_deep(label)) from error


def _check_depth(text: str, label: str) -> None:
    """Raise before a parser meets more brackets in each other than any config has; those in texts count as well."""
    depth = 0
    for bracket in BRACKETS.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(depth - 1, 0)
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, bracket.start()) + 1
            msg = f"{label}:{line}: more than {MAX_DEPTH} objects and lists in each other, which no config has."
            raise ConfigError(msg)


def _copy_as_json(source: Mapping[str, Any]) -> Any:  # noqa: ANN401
    try:
        return json.loads(json.dumps(dict(source), default=_plain))
    except (TypeError, ValueError) as error:
        msg = f"config: cannot be written as JSON: {error}."
        raise ConfigError(msg) from error
    except RecursionError as error:
        raise ConfigError(_too_deep("config")) from error


def _too_deep(label: str) -> str:
    return f"{label}: nested too deeply; no setting is more than a few levels down."


def _plain(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return dict(value)
    return os.fspath(value)  # type: ignore[call-overload]  # raises TypeError for what is no path


def _kind(value: object) -> str:
    return "a list [...]" if isinstance(value, list) else f"the value {value!r}"


def parse_override(text: str) -> Override:
    """Read ``a.b=c``; the value is JSON5 when it can be read as such, and text otherwise.

    Raises:
        ConfigError: there is no ``=``, or no key before it.
    """
    keys, equals, written = text.partition("=")
    path = tuple(key.strip() for key in keys.split("."))
    if not equals or not all(path):
        msg = f"--set {text}: expected 'section.setting=value', as in 'quantize.weight_bits=4'."
        raise ConfigError(msg)
    import json5  # noqa: PLC0415

    _check_depth(written, f"--set {keys}")
    try:
        value = json5.loads(written, allow_duplicate_keys=False)
    except (ValueError, RecursionError):
        value = written.strip()
    return Override(path, value, f"--set {'.'.join(path)}")


def apply_override(document: dict[str, Any], override: Override) -> None:
    """Write an override into plain data, making objects on the way; list entries go by number.

    Raises:
        ConfigError: the way leads through something that is neither an object nor a list with that entry.
    """
    place: Any = document
    for depth, key in enumerate(override.path):
        last = depth == len(override.path) - 1
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):
            index: Any = int(key)
        elif isinstance(place, dict):
            index = key
        else:
            before = ".".join(override.path[:depth])
            msg = f"{override.label}: {before} is {_kind(place)}, which has no {key!r}."
            raise ConfigError(msg)
        if last:
            place[index] = override.value
        elif isinstance(place, dict):
            place = place.setdefault(index, {})
        else:
            place = place[index]
