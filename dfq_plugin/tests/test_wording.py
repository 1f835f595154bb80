"""Numbers in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dfq_plugin import wording


@pytest.mark.parametrize(
    ("say", "value", "words"),
    [
        (wording.say_bytes, 1023, "1023 B"),
        (wording.say_bytes, 1536, "1.5 KiB"),
        (wording.say_bytes, 5 * 1024**3, "5.0 GiB"),
        (wording.say_bytes, 3 * 1024**4, "3.0 TiB"),
        (wording.say_count, 1_234_567, "1,234,567"),
        (wording.say_percent, 75.456, "75.46 %"),
        (wording.say_percent, 99.999, "99.99 %"),
        (wording.say_percent, 100.0, "100.00 %"),
        (wording.say_points, -1.234, "-1.23 points"),
        (wording.say_points, 0.5, "+0.50 points"),
        (wording.say_milliseconds, 0.12345, "0.123 ms"),
        (wording.say_milliseconds, 4.7821, "4.78 ms"),
        (wording.say_milliseconds, 12.345, "12.3 ms"),
        (wording.say_milliseconds, 123.45, "123 ms"),
        (wording.say_seconds, 0.25, "0.2 s"),
        (wording.say_seconds, 59.97, "1 min 0 s"),
        (wording.say_seconds, 125, "2 min 5 s"),
        (wording.say_seconds, 3725, "1 h 2 min"),
        (wording.say_decibels, 12.34, "12.3 dB"),
        (wording.say_decibels, float("inf"), "exact"),
        (wording.say_decibels, float("-inf"), "-inf dB"),
        (wording.say_nats, 0.012345, "0.0123 nats"),
    ],
)
def test_says(say: Callable[[Any], str], value: float, words: str) -> None:
    assert say(value) == words


@pytest.mark.parametrize("name", [name for name in dir(wording) if name.startswith("say_") and name != "say_ratio"])
def test_says_a_dash_when_nothing_was_measured(name: str) -> None:
    assert getattr(wording, name)(None) == wording.UNKNOWN


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (10, 4, "2.50x"),
        (4, 10, "0.40x"),
        (None, 1, wording.UNKNOWN),
        (1, None, wording.UNKNOWN),
        (1, 0, wording.UNKNOWN),
    ],
)
def test_ratio_says_how_many_times_smaller(before: float | None, after: float | None, words: str) -> None:
    assert wording.say_ratio(before, after) == words
