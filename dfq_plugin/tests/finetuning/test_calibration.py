"""Ranges of quantizers from extremes; NNCF's own quantizers are tried in the integration tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfq_plugin.finetuning.calibration import set_range
from dfq_plugin.tests.finetuning.samples import Clip


class Affine(nn.Module):
    """Stands in for an asymmetric quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.range = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def get_trainable_params(self) -> dict[str, nn.Parameter]:
        return {"input_low": self.low, "input_range": self.range}


@pytest.mark.parametrize(
    ("level_low", "low", "high", "scale"),
    [
        pytest.param(0, 0.0, 3.0, 3.0, id="unsigned"),
        pytest.param(0, -9.0, 3.0, 3.0, id="unsigned_cannot_go_below_zero"),
        pytest.param(-8, -1.0, 3.0, 3.0, id="signed_high_side"),
        pytest.param(-8, -4.0, 3.0, 3.5, id="signed_low_side"),
    ],
)
def test_symmetric_range_reaches_the_further_extreme(level_low: int, low: float, high: float, scale: float) -> None:
    clip = Clip(level_low)
    set_range(clip, low, high)
    assert clip.scale.item() == pytest.approx(scale)


@pytest.mark.parametrize(
    ("low", "high", "input_low", "input_range"),
    [(-1.0, 3.0, -1.0, 4.0), (0.5, 3.0, 0.0, 3.0), (-2.0, -1.0, -2.0, 2.0)],
)
def test_asymmetric_range_holds_both_extremes_and_zero(
    low: float, high: float, input_low: float, input_range: float
) -> None:
    affine = Affine()
    set_range(affine, low, high)
    assert affine.low.item() == pytest.approx(input_low)
    assert affine.range.item() == pytest.approx(input_range)
