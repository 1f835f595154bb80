"""Numbers the way people read them; a dash for what was not measured."""

from __future__ import annotations

import math

UNKNOWN = "–"  # noqa: RUF001 - a dash, as tables print it


def say_bytes(size: float | None) -> str:
    """Write a size in bytes: ``say_bytes(1536) == "1.5 KiB"``."""
    if size is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def say_count(count: int | None) -> str:
    """Write a whole number: ``say_count(1234567) == "1,234,567"``."""
    return UNKNOWN if count is None else f"{count:,}"


def say_percent(percent: float | None) -> str:
    """Write a percentage with two decimals, never rounded up to 100: ``say_percent(99.999) == "99.99 %"``."""
    if percent is None:
        return UNKNOWN
    shown = min(round(percent, 2), 99.99) if percent < 100 else percent
    return f"{shown:.2f} %"


def say_points(difference: float | None) -> str:
    """Write a difference of percentages with its sign: ``say_points(-1.234) == "-1.23 points"``."""
    return UNKNOWN if difference is None else f"{difference:+.2f} points"


def say_milliseconds(milliseconds: float | None) -> str:
    """Write a latency with three significant digits: ``say_milliseconds(4.7821) == "4.78 ms"``."""
    if milliseconds is None:
        return UNKNOWN
    decimals = 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 3
    return f"{milliseconds:.{decimals}f} ms"


def say_seconds(seconds: float | None) -> str:
    """Write a duration: ``say_seconds(3725) == "1 h 2 min"``, ``say_seconds(0.25) == "0.2 s"``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def say_ratio(before: float | None, after: float | None) -> str:
    """Write how many times smaller or faster: ``say_ratio(10, 4) == "2.50x"``."""
    return UNKNOWN if before is None or not after else f"{before / after:.2f}x"


def say_decibels(decibels: float | None) -> str:
    """Write a ratio in decibels; infinite (no error at all) and not measured are told apart."""
    if decibels is None:
        return UNKNOWN
    return "exact" if math.isinf(decibels) and decibels > 0 else f"{decibels:.1f} dB"


def say_nats(nats: float | None) -> str:
    """Write a KL divergence with three significant digits: ``say_nats(0.012345) == "0.0123 nats"``."""
    return UNKNOWN if nats is None else f"{nats:.3g} nats"
