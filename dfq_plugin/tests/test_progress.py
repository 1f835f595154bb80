"""A bar on a terminal, two lines in a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dfq_plugin import progress
from dfq_plugin.progress import track


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
