from __future__ import annotations

import pytest
import torch

from dfq_plugin.quantization.bit_budget import spread_evenly


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(8, 4, [0, 2, 4, 6]), (10, 4, [0, 2, 5, 7]), (3, 8, [0, 1, 2]), (5, 1, [0])],
)
def test_images_are_spread_over_the_whole_set(count: int, most: int, expected: list[int]) -> None:
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    assert spread_evenly(images, most)[:, 0, 0, 0].tolist() == expected
