"""The windows of an adaptive pool are PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfq_plugin.export.translations import _shares, _windows


def test_windows_of_seven_elements_in_three_overlap_by_one() -> None:
    assert [list(window) for window in _windows(7, 3)] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


def test_windows_repeat_elements_when_there_are_more_windows() -> None:
    assert [list(window) for window in _windows(2, 3)] == [[0], [0, 1], [1]]


@pytest.mark.parametrize(("size", "count"), [(7, 3), (2, 7), (6, 6), (9, 4), (1, 5)])
def test_shares_average_as_pytorch_does(size: int, count: int) -> None:
    row = torch.randint(-50, 50, (1, 1, size), generator=torch.Generator().manual_seed(0)).double()
    shares = torch.from_numpy(_shares(size, _windows(size, count)).astype(np.float64))
    assert torch.allclose(row @ shares.T, F.adaptive_avg_pool1d(row, count), rtol=0, atol=1e-5)
    assert torch.allclose(shares.sum(dim=1), torch.ones(count, dtype=torch.float64), rtol=0, atol=1e-6)
