"""Which images stand for a whole set: some from everywhere, since the parts of a mixture lie one after the other."""

from __future__ import annotations


def spread_evenly(total: int, most: int) -> list[int]:
    """At most ``most`` places of ``total``, in order and evenly spread."""
    count = min(most, total)
    return [index * total // count for index in range(count)]
