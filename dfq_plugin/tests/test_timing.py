"""The stopwatch and the memory gauge."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from dfq_plugin.timing import Stopwatch, peak_memory_bytes, timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hand = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.perf_counter", lambda: hand.now)
    return hand


def test_each_stage_gets_its_seconds_in_the_order_they_ran(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    for name, seconds in (("export", 2.0), ("validate", 0.5)):
        with watch.stage(name):
            clock.now += seconds
        clock.now += 10.0  # between stages, nobody's
    assert list(watch.seconds.items()) == [("export", 2.0), ("validate", 0.5)]


def test_a_stage_that_runs_twice_adds_up(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    for seconds in (1.0, 3.0):
        with watch.stage("export"):
            clock.now += seconds
    assert watch.seconds == {"export": 4.0}


def test_time_of_a_stage_that_fails_is_kept(clock: SimpleNamespace) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.stage("export"):
            clock.now += 2.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert watch.seconds == {"export": 2.0}


@pytest.mark.parametrize(("platform", "expected"), [("linux", 3072), ("darwin", 3)])
def test_peak_memory_is_in_bytes(platform: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _who: SimpleNamespace(ru_maxrss=3))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: fake)
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr("sys.platform", platform)
    assert peak_memory_bytes() == expected


def test_peak_memory_of_this_process_is_plausible() -> None:
    peak = peak_memory_bytes()
    assert peak is not None
    assert 10 * 2**20 < peak < 2**40


def test_peak_memory_is_not_known_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert peak_memory_bytes() is None


def test_log_has_one_line_for_each_stage(caplog: pytest.LogCaptureFixture, clock: SimpleNamespace) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.stage("validate"):
            clock.now += 2.0
            raise ZeroDivisionError

    with caplog.at_level("INFO", logger="nncf.dfq_plugin.progress"):
        with watch.stage("export"):
            clock.now += 61.0
        with pytest.raises(ZeroDivisionError):
            fail()
    assert caplog.messages == ["Stage export: done in 1 min 1 s", "Stage validate: stopped after 2.0 s"]


def test_block_is_timed_up_to_now_and_then_to_its_end(clock: SimpleNamespace) -> None:
    with timed() as elapsed:
        clock.now += 2.0
        assert elapsed() == 2.0
        clock.now += 1.0
    clock.now += 5.0
    assert elapsed() == 3.0
