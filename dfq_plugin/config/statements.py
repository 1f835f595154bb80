"""What a config file says, setting by setting, before it is checked: each with the place where it was said."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from dfq_plugin.config.base import Settings
from dfq_plugin.config.schema import Config, Note

Path = tuple[str, ...]


class Statements:
    """Collects settings from all corners of a file; the same setting said twice must be said alike."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[Any, str]] = {}
        self._implied: dict[Path, tuple[Any, str]] = {}
        self.notes: list[Note] = []
        self.problems: list[str] = []

    def say(self, path: Path, value: Any, pointer: str) -> None:  # noqa: ANN401 - any JSON value
        """Record a setting; a second, different value for it is a problem that names both places."""
        if path in self._said:
            earlier, elsewhere = self._said[path]
            if earlier != value:
                self.refuse(pointer, f"{value!r} contradicts {elsewhere}, which says {earlier!r}; delete one of them")
            return
        self._said[path] = (value, pointer)

    def imply(self, path: Path, value: Any, pointer: str) -> None:  # noqa: ANN401
        """Record a setting that holds unless it is said outright somewhere."""
        self._implied[path] = (value, pointer)

    def override(self, path: Path, value: Any, pointer: str) -> None:  # noqa: ANN401
        """Record settings that replace whatever the file says at or below a place."""
        for said in (self._said, self._implied):
            for known in [known for known in said if known[: len(path)] == path]:
                del said[known]
        for leaf, part, _ in flatten(value, path):
            self._said[leaf] = (part, pointer)

    def map(self, path: Path, value: Any, pointer: str) -> None:  # noqa: ANN401
        """Record a setting that an NNCF 2.x field stands for, and note it."""
        self.say(path, value, pointer)
        self.note("mapped", pointer, f"taken as {'.'.join(path)} = {value!r}")

    def note(
        self, level: typing.Literal["mapped", "approximated", "default", "ignored"], at: str, message: str
    ) -> None:
        """Tell the user what became of something."""
        self.notes.append(Note(level=level, pointer=at, message=message))

    def refuse(self, pointer: str, message: str) -> None:
        """Record a problem; loading fails with all of them at the end."""
        self.problems.append(f"{pointer}: {message}.")

    def says(self, *path: str) -> bool:
        """Whether a setting was said outright."""
        return path in self._said

    def says_below(self, *path: str) -> bool:
        """Whether anything was said outright at or below a place."""
        return any(said[: len(path)] == path for said in self._said)

    def knows(self, *path: str) -> bool:
        """Whether a setting was said outright or follows from something else that was."""
        return path in self._said or path in self._implied

    def value(self, *path: str) -> Any:  # noqa: ANN401
        """What was said or implied about a setting, None when nothing was."""
        return (self._implied | self._said).get(path, (None, ""))[0]

    def document(self) -> dict[str, Any]:
        """Everything said and implied, nested as in a config file."""
        document: dict[str, Any] = {}
        for path, (value, _) in sorted((self._implied | self._said).items(), key=lambda item: len(item[0])):
            place: Any = document
            for key in path[:-1]:
                place = place.setdefault(key, {}) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place[path[-1]] = value
        return document

    def origins(self) -> dict[Path, str]:
        """Where each setting was said."""
        return {path: pointer for path, (_, pointer) in (self._implied | self._said).items()}

    def pointer(self, path: Path) -> str:
        """Where the user said something about a setting, for error messages."""
        origins = self.origins()
        for length in range(len(path), 0, -1):
            known = path[:length]
            if known in origins:
                moved = origins[known] != to_pointer(known)
                return origins[known] if moved else to_pointer(path)
        inside = [pointer for known, pointer in origins.items() if known[: len(path)] == path and path]
        return inside[0] if len(inside) == 1 and inside[0].startswith("--set") else to_pointer(path)


def flatten(value: Any, path: Path) -> Iterator[tuple[Path, Any, str]]:  # noqa: ANN401
    """Take a section apart into (path, value, JSON pointer) of its single settings."""
    if isinstance(value, Mapping) and (value or not path) and _is_open(path):
        for key, part in value.items():
            yield from flatten(part, (*path, str(key)))
    else:
        yield path, value, to_pointer(path)


def setting_names(section: type[Settings], place: str = "") -> Iterator[str]:
    """Dotted names of every setting below a section, as ``--set`` takes them."""
    for name, field in section.model_fields.items():
        here = f"{place}{field.alias or name}"
        if _is_section(field.annotation):
            yield from setting_names(typing.cast("type[Settings]", field.annotation), f"{here}.")
        else:
            yield here


def to_pointer(path: tuple[str | int, ...]) -> str:
    """Write a path as a JSON pointer (RFC 6901); the whole document is ``/``."""
    return "/" + "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in path)


def _is_open(path: Path) -> bool:
    """Whether the mapping at a path is taken apart: sections are, and settings that are themselves mappings."""
    kind: Any = Config
    for key in path:
        if not _is_section(kind):
            return False
        kind = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}.get(key)
    return _is_section(kind) or typing.get_origin(kind) is dict


def _is_section(kind: Any) -> bool:  # noqa: ANN401
    return isinstance(kind, type) and issubclass(kind, Settings)
