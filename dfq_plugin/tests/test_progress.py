"""A bar on a terminal, two lines in a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from dfq_plugin import progress
from dfq_plugin.progress import track, watch_loops


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    with caplog.at_level(logging.INFO, logger="nncf.dfq_plugin.progress"):
        yield caplog


class TestLog:
    def test_has_one_line_at_each_end_of_a_loop(self, log: pytest.LogCaptureFixture) -> None:
        assert list(track(["a", "b"], "Reading")) == ["a", "b"]
        first, last = log.messages
        assert first == "Reading: 0 of 2"
        assert last.startswith("Reading: 2 of 2 in 0.0 s")

    def test_loops_over_a_range_when_given_a_number(self, log: pytest.LogCaptureFixture) -> None:
        assert list(track(3, "Counting")) == [0, 1, 2]
        assert log.messages[0] == "Counting: 0 of 3"

    def test_does_without_a_total(self, log: pytest.LogCaptureFixture) -> None:
        assert list(track(iter("ab"), "Reading")) == ["a", "b"]
        assert log.messages[0] == "Reading: started"
        assert log.messages[1].startswith("Reading: 2 in")

    def test_says_how_far_it_came_when_body_raises(self, log: pytest.LogCaptureFixture) -> None:
        def optimise() -> None:
            with track(5, "Optimising") as bar:
                bar.advance()
                bar.advance(2)
                raise KeyError

        with pytest.raises(KeyError):
            optimise()
        assert log.messages[1].startswith("Optimising: 3 of 5 in")
        assert log.messages[1].endswith("s, stopped")


class TestBar:
    @pytest.fixture(autouse=True)
    def _terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "on_terminal", lambda: True)

    def test_is_drawn_on_standard_error_with_counts_and_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        list(track(2, "Optimising"))
        written = capsys.readouterr()
        assert written.out == ""
        assert "Optimising" in written.err
        assert "2/2" in written.err
        assert "0:00:00" in written.err

    def test_is_shared_by_loops_inside_loops(self, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in track(2, "Outer"):
            shared = track._shared
            for _ in track(3, "Inner"):
                assert track._shared is shared is not None
        assert "Inner" in capsys.readouterr().err
        assert track._shared is None

    def test_is_taken_down_when_body_raises(self) -> None:
        with pytest.raises(KeyError), track(2, "Outer"):
            raise KeyError
        assert track._shared is None


@pytest.mark.parametrize(
    ("terminal", "in_ci", "bar"), [(True, "", True), (True, "true", False), (False, "", False)], ids=str
)
def test_bar_is_for_terminals_outside_ci(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, in_ci: str, bar: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("CI", in_ci)
    assert progress.on_terminal() is bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hand = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.perf_counter", lambda: hand.now)
    return hand


def test_log_of_a_long_loop_says_now_and_then_how_much_is_left(
    log: pytest.LogCaptureFixture, clock: SimpleNamespace
) -> None:
    for _ in track(4, "Optimising"):
        clock.now += 40.0
    assert log.messages[1] == "Optimising: 2 of 4, about 1 min 20 s left"
    assert len(log.messages) == 3


class TestWatching:
    def test_tells_steps_and_seconds_and_stays_quiet(
        self, log: pytest.LogCaptureFixture, clock: SimpleNamespace
    ) -> None:
        with watch_loops() as watch:
            for step in track(3, "Optimising"):
                clock.now += 10.0 if step == 0 else 2.0
        (loop,) = watch.loops
        assert (loop.description, loop.total, loop.done, loop.seconds) == ("Optimising", 3, 3, 14.0)
        assert loop.step_s == 2.0  # the first step is another matter
        assert log.messages == []

    def test_leaves_a_loop_after_two_steps_and_the_time(self, clock: SimpleNamespace) -> None:
        taken, after = [], []
        with watch_loops(stop_after_s=5.0) as watch:
            for step in track(1000, "Optimising"):
                clock.now += 3.0
                taken.append(step)
            after.append("never")
        assert (taken, after) == ([0, 1], [])
        assert (watch.loops[0].total, watch.loops[0].step_s) == (1000, 3.0)

    def test_one_slow_step_is_not_enough(self, clock: SimpleNamespace) -> None:
        with watch_loops(stop_after_s=5.0) as watch:
            for _ in track(1000, "Optimising"):
                clock.now += 60.0
        assert watch.loops[0].done == 2

    def test_is_over_after_the_block(self, log: pytest.LogCaptureFixture) -> None:
        with watch_loops(stop_after_s=0.0):
            list(track(5, "Optimising"))
        assert list(track(3, "Reading")) == [0, 1, 2]
        assert log.messages[0] == "Reading: 0 of 3"

    def test_lets_errors_through(self) -> None:
        with pytest.raises(KeyError), watch_loops(stop_after_s=0.0):
            raise KeyError
        assert track.watch is None

    def test_counts_steps_that_are_taken_together(self, clock: SimpleNamespace) -> None:
        with watch_loops() as watch, track(12, "Blocks") as progress:
            for _ in range(3):
                clock.now += 8.0
                progress.advance(4)
        assert watch.loops[0].step_s == 2.0
