from __future__ import annotations

import pytest

from dfq_plugin.spreading import spread_evenly


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(8, 4, [0, 2, 4, 6]), (10, 4, [0, 2, 5, 7]), (3, 8, [0, 1, 2]), (5, 1, [0]), (0, 4, [])],
)
def test_images_are_spread_over_the_whole_set(count: int, most: int, expected: list[int]) -> None:
    assert spread_evenly(count, most) == expected
