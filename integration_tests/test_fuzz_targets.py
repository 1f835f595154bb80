"""The fuzzer's targets over their corpus, and over what hypothesis makes of it: read, or refused in so many words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration_tests.fuzz.targets import TARGETS, Source

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
SEEDS = {name: sorted((CORPUS / name).iterdir()) for name in TARGETS}
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@QUICK
@given(data=st.data())
def test_damaged_corpus(name: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[name])).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    TARGETS[name](bytes(content))


@pytest.mark.parametrize("name", TARGETS)
@QUICK
@given(content=st.binary(max_size=400))
def test_any_bytes(name: str, content: bytes) -> None:
    TARGETS[name](content)


def test_target_does_not_swallow_what_is_no_error_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration_tests.fuzz.targets.load_config", lambda _path: {}["no such key"])
    with pytest.raises(KeyError):
        TARGETS["config"](b"{}")


def test_source_gives_what_the_bytes_say() -> None:
    assert Source(b"").mapping(0) == {}
    assert Source(bytes([1, 3, 0, 2, 0, 7])).mapping(0) != {}
    assert Source(bytes(range(256))).mapping(0) == Source(bytes(range(256))).mapping(0)
