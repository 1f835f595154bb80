"""Find providers by name: the built-in ones, and those that installed packages announce.

A third party registers in the metadata of its own package::

    entry_points={"dfq_plugin.providers": ["acme_noise = acme_noise:AcmeNoise"]}

Its module is imported when the provider is asked for by name, never for listing, so that a broken package breaks only
the caller who wants it.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pydantic

from dfq_plugin.errors import ConfigError, ProviderContractError
from dfq_plugin.providers import BUILTIN_PROVIDERS
from dfq_plugin.providers.base import Provider

ENTRY_POINT_GROUP = "dfq_plugin.providers"

ProviderClass = TypeVar("ProviderClass", bound=type[Provider])

_registered: dict[str, type[Provider]] = {}


@dataclass(frozen=True)
class ProviderInfo:
    """One line of the catalogue.

    Attributes:
        name: What goes into ``calibration.provider``.
        paper: Title, venue and arXiv number; empty when there is none or when the module has not been imported.
        needs: What the method asks of a teacher; empty when the module has not been imported.
        online: True when the data is made while the student learns.
        module: The module that the provider lives in.
    """

    name: str
    paper: str
    needs: str
    online: bool
    module: str


def register_provider(cls: ProviderClass) -> ProviderClass:
    """Make a provider class known by its ``name``; use it as a decorator.

    Raises:
        ConfigError: The name is taken by another class.
        ProviderContractError: ``name``, ``paper`` or ``needs`` is missing or not a text.
    """
    for attribute in ("name", "paper", "needs"):
        if not isinstance(getattr(cls, attribute, None), str):
            msg = f"Provider class {_where(cls)} must have a class attribute '{attribute}' that is a text."
            raise ProviderContractError(msg)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.name):
        msg = f"Provider class {_where(cls)} has name '{cls.name}'; use lower-case letters, digits and underscores."
        raise ProviderContractError(msg)
    taken = _registered.get(cls.name)
    owner = _where(taken) if taken is not None else BUILTIN_PROVIDERS.get(cls.name, _where(cls))
    # A module that is imported again defines the same class anew; that is no clash.
    if owner not in (_where(cls), cls.__module__):
        raise ConfigError(_clash(cls.name, [owner, _where(cls)]))
    _registered[cls.name] = cls
    return cls


def get_provider(name: str) -> type[Provider]:
    """Give the provider class with this name, importing its module if need be.

    Raises:
        ConfigError: No provider has this name, or more than one does, or its module cannot be imported.
        ProviderContractError: What a package announces under this name is not such a provider.
    """
    announced = _announced(name)
    owners = [*([BUILTIN_PROVIDERS[name]] if name in BUILTIN_PROVIDERS else []), *(point.value for point in announced)]
    if len(owners) > 1:
        raise ConfigError(_clash(name, owners))
    if name in BUILTIN_PROVIDERS:
        importlib.import_module(BUILTIN_PROVIDERS[name])
    elif announced and name not in _registered:
        _load(announced[0])
    if name not in _registered:
        known = sorted({*BUILTIN_PROVIDERS, *_registered, *(point.name for point in _announced())})
        msg = f"There is no provider '{name}'.{_nearest(name, known)} Providers: {', '.join(known)}."
        raise ConfigError(msg)
    return _registered[name]


def list_providers() -> list[ProviderInfo]:
    """List every provider by name; modules of third parties are not imported for it."""
    for module in BUILTIN_PROVIDERS.values():
        importlib.import_module(module)
    listed = {
        cls.name: ProviderInfo(cls.name, cls.paper, cls.needs, cls.online, cls.__module__)
        for cls in _registered.values()
    }
    for point in _announced():
        listed.setdefault(point.name, ProviderInfo(point.name, "", "", online=False, module=point.module))
    return [listed[name] for name in sorted(listed)]


@dataclass(frozen=True)
class SettingInfo:
    """One setting of a provider: what it is, what it is when nothing is said, and where that value comes from."""

    name: str
    default: Any
    description: str
    source: str


@dataclass(frozen=True)
class ProviderDescription:
    """A provider with all its settings."""

    info: ProviderInfo
    summary: str
    settings: tuple[SettingInfo, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the description as plain data."""
        return {**asdict(self.info), "summary": self.summary, "settings": [asdict(each) for each in self.settings]}

    def to_text(self) -> str:
        """Lay the description out for people."""
        lines = [f"{self.info.name}: {self.info.paper or self.summary}", f"needs: {self.info.needs}", ""]
        for each in self.settings:
            lines.append(f"{each.name} = {json.dumps(each.default)}")
            lines.append(f"    {each.description} [{each.source}]")
        return "\n".join(lines)


def describe_provider(name: str) -> ProviderDescription:
    """Tell what there is to set in a provider.

    Raises:
        ConfigError: There is no such provider.
    """
    cls = get_provider(name)
    info = ProviderInfo(cls.name, cls.paper, cls.needs, cls.online, cls.__module__)
    usual = _defaults(cls)
    settings = []
    for key, field in cls.model_fields.items():
        extra = field.json_schema_extra
        source = extra.get("source", "") if isinstance(extra, dict) else ""
        settings.append(SettingInfo(key, usual.get(key), field.description or "", str(source)))
    return ProviderDescription(info, (cls.__doc__ or "").strip().split("\n")[0], tuple(settings))


def _defaults(cls: type[Provider]) -> Mapping[str, Any]:
    """The defaults of a provider, presets filled in; nothing of one that cannot do without being told something."""
    try:
        values: Mapping[str, Any] = cls().model_dump(mode="json")
    except pydantic.ValidationError:
        schema = cls.model_json_schema()["properties"]
        return {key: part.get("default", "required") for key, part in schema.items()}
    return values


def build_provider(name: str, params: Mapping[str, Any]) -> Provider:
    """Make a provider from the settings in the config.

    Args:
        name: The registered name.
        params: The section ``calibration.params``.

    Raises:
        ConfigError: There is no such provider, or a setting is unknown or has a value that is not allowed; the
            message points at the setting.
    """
    cls = get_provider(name)
    try:
        return cls(**params)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)
        # An entry that is wrong is missing from its list, which pydantic then finds too short as well.
        wrong = [each for each in details if not any(_is_inside(other["loc"], each["loc"]) for other in details)]
        problems = [_explain(detail, list(cls.model_fields), name) for detail in wrong]
        raise ConfigError(" ".join(problems)) from error


def _is_inside(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def _explain(detail: Any, known: list[str], name: str) -> str:  # noqa: ANN401 - a private TypedDict of pydantic
    pointer = "/".join(["/calibration/params", *map(str, detail["loc"])])
    if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
        key = str(detail["loc"][0])
        listed = ", ".join(sorted(known)) or "none"
        return f"{pointer}: provider '{name}' has no setting '{key}'.{_nearest(key, known)} Settings: {listed}."
    if detail["type"] == "missing":
        return f"{pointer}: provider '{name}' needs this setting."
    message = detail["msg"].removeprefix("Value error, ")  # what pydantic puts before messages of our own
    return f"{pointer}: {message}, got {detail['input']!r}."


def _announced(name: str | None = None) -> list[EntryPoint]:
    found = entry_points(group=ENTRY_POINT_GROUP)
    # One package can be seen twice, as when it is installed in two folders of the search path.
    unique = {(point.name, point.value): point for point in found if name is None or point.name == name}
    return list(unique.values())


def _load(point: EntryPoint) -> None:
    try:
        cls = point.load()
    except Exception as error:  # foreign code runs here and may raise anything
        msg = f"Provider '{point.name}' ({point.value}) cannot be imported: {type(error).__name__}: {error}."
        raise ConfigError(msg) from error
    if not (isinstance(cls, type) and issubclass(cls, Provider) and getattr(cls, "name", None) == point.name):
        msg = f"{point.value} is announced as provider '{point.name}' but is not a Provider class of that name."
        raise ProviderContractError(msg)
    if _registered.get(point.name) is not cls:
        register_provider(cls)


def _clash(name: str, owners: Iterable[str]) -> str:
    return f"The provider name '{name}' is taken twice, by {' and by '.join(owners)}; rename or uninstall one of them."


def _where(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
