"""Providers are found by name; what is wrong with a name or a setting is said in full."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dfq_plugin.errors import ConfigError, ProviderContractError
from dfq_plugin.providers import BUILTIN_PROVIDERS, registry
from dfq_plugin.providers.base import Provider, cited
from dfq_plugin.providers.noise import Noise
from dfq_plugin.providers.registry import build_provider, get_provider, list_providers, register_provider

FOREIGN_MODULE = """
from typing import ClassVar
from dfq_plugin.providers.noise import Noise

class Acme(Noise):
    name: ClassVar[str] = "acme"

class Other(Noise):
    name: ClassVar[str] = "other"

nothing = 3
"""


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    list_providers()  # imports the built-in modules once; a second import would not register them again
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Announce entry points that lie in a module 'foreign' which has not been imported."""
    (tmp_path / "foreign.py").write_text(FOREIGN_MODULE)
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in points if p.group == group])

    def announce(name: str, value: str) -> None:
        points.append(EntryPoint(name, value, "dfq_plugin.providers"))

    yield announce
    sys.modules.pop("foreign", None)


def make_class(name: Any, module: str = "somewhere") -> type[Provider]:
    class Made(Noise):
        pass

    Made.name = name
    Made.__module__ = module
    return Made


class TestRegisterProvider:
    def test_makes_class_known_by_name(self) -> None:
        made = make_class("made")
        assert register_provider(made) is made
        assert get_provider("made") is made

    def test_names_both_classes_when_name_is_taken(self) -> None:
        register_provider(make_class("made", module="here"))
        with pytest.raises(ConfigError, match=r"'made' is taken twice, by here:.*Made and by there:.*Made"):
            register_provider(make_class("made", module="there"))

    def test_protects_built_in_names_before_they_are_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_registered", {})
        with pytest.raises(ConfigError, match=r"by dfq_plugin\.providers\.noise and by somewhere"):
            register_provider(make_class("noise"))

    def test_takes_the_same_class_from_a_module_that_is_imported_again(self) -> None:
        again = make_class("made")
        register_provider(make_class("made"))
        register_provider(again)
        assert get_provider("made") is again

    @pytest.mark.parametrize("name", ["Made", "made-up", "", "1st"])
    def test_refuses_name_that_is_no_plain_word(self, name: str) -> None:
        with pytest.raises(ProviderContractError, match="use lower-case letters"):
            register_provider(make_class(name))

    @pytest.mark.parametrize("attribute", ["paper", "needs"])
    def test_refuses_class_that_does_not_describe_itself(self, attribute: str) -> None:
        made = make_class("made")
        setattr(made, attribute, None)
        with pytest.raises(ProviderContractError, match=f"class attribute '{attribute}'"):
            register_provider(made)


class TestGetProvider:
    def test_gives_built_in_class(self) -> None:
        assert get_provider("noise") is Noise

    def test_lists_names_and_guesses_when_name_is_unknown(self, announce: Any) -> None:
        announce("acme", "foreign:Acme")
        with pytest.raises(
            ConfigError, match=r"no provider 'acmee'\. Did you mean 'acme'\? Providers: acme, .*folder, "
        ):
            get_provider("acmee")

    def test_imports_module_of_third_party_when_asked_for_by_name(self, announce: Any) -> None:
        announce("acme", "foreign:Acme")
        assert "foreign" not in sys.modules
        found = get_provider("acme")
        assert (found.__module__, found.__name__) == ("foreign", "Acme")
        assert get_provider("acme") is found

    def test_names_both_when_third_party_takes_built_in_name(self, announce: Any) -> None:
        announce("noise", "foreign:Acme")
        with pytest.raises(
            ConfigError, match=r"'noise' is taken twice, by dfq_plugin\.providers\.noise and by foreign:"
        ):
            get_provider("noise")

    def test_names_both_when_two_third_parties_take_one_name(self, announce: Any) -> None:
        announce("acme", "foreign:Acme")
        announce("acme", "elsewhere:Acme")
        with pytest.raises(ConfigError, match=r"by foreign:Acme and by elsewhere:Acme"):
            get_provider("acme")

    def test_takes_one_package_that_is_seen_twice(self, announce: Any) -> None:
        announce("acme", "foreign:Acme")
        announce("acme", "foreign:Acme")
        assert get_provider("acme").name == "acme"

    def test_breaks_for_nobody_else_when_third_party_cannot_be_imported(self, announce: Any) -> None:
        announce("acme", "broken:Acme")
        assert get_provider("noise") is Noise
        assert "acme" in [info.name for info in list_providers()]
        with pytest.raises(
            ConfigError, match=r"'acme' \(broken:Acme\) cannot be imported: ZeroDivisionError: at import"
        ):
            get_provider("acme")

    @pytest.mark.parametrize("value", ["foreign:nothing", "foreign:Other"])
    def test_refuses_what_is_not_the_announced_provider(self, announce: Any, value: str) -> None:
        announce("acme", value)
        with pytest.raises(ProviderContractError, match=f"{value} is announced as provider 'acme' but is not"):
            get_provider("acme")


class TestListProviders:
    def test_has_every_built_in_with_its_description(self) -> None:
        listed = {info.name: info for info in list_providers()}
        assert listed.keys() >= BUILTIN_PROVIDERS.keys()
        assert (listed["noise"].module, listed["noise"].needs) == ("dfq_plugin.providers.noise", "nothing")
        assert "arXiv" in listed["zeroq"].paper
        assert list(listed) == sorted(listed)

    def test_does_not_import_third_parties(self, announce: Any) -> None:
        announce("acme", "foreign:Acme")
        (found,) = [info for info in list_providers() if info.name == "acme"]
        assert found.module == "foreign"
        assert "foreign" not in sys.modules


class Tuned(Noise):
    name: ClassVar[str] = "tuned"
    steps: int = cited(5, "here", "Steps.", ge=1)
    needed: float = cited(..., "here", "Needed.")


class TestBuildProvider:
    @pytest.fixture(autouse=True)
    def _tuned(self) -> None:
        register_provider(Tuned)

    def test_gives_provider_with_its_settings(self) -> None:
        assert build_provider("tuned", {"steps": 7, "needed": 1}) == Tuned(steps=7, needed=1.0)

    @pytest.mark.parametrize(
        ("params", "told"),
        [
            pytest.param(
                {"needed": 1, "step": 7},
                r"^/calibration/params/step: provider 'tuned' has no setting 'step'\. Did you mean 'steps'\? "
                r"Settings: distribution, needed, steps\.$",
                id="unknown",
            ),
            pytest.param({"needed": 1, "steps": 0}, r"^/calibration/params/steps: .*greater.*, got 0\.$", id="bound"),
            pytest.param({"needed": 1, "steps": "x"}, r"^/calibration/params/steps: .*integer.*, got 'x'", id="type"),
            pytest.param({}, r"^/calibration/params/needed: provider 'tuned' needs this setting\.$", id="missing"),
            pytest.param({"steps": 0}, r"params/steps: .* /calibration/params/needed: ", id="two_at_once"),
        ],
    )
    def test_points_at_the_setting(self, params: dict[str, Any], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            build_provider("tuned", params)
