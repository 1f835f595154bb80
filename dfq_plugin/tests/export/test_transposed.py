"""A transposed convolution and the ordinary one it becomes give the same integers, whatever the geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfq_plugin.export.transposed import Axis, plan_axis, rearrange_weight

Pair = tuple[int, int]


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).double()


def test_one_phase_a_position_when_the_kernel_is_as_wide_as_the_stride() -> None:
    plan = plan_axis(kernel=2, stride=2, dilation=1, padding=(0, 0), output_padding=0)
    assert plan is not None
    assert plan.taps.tolist() == [[0], [1]]
    assert (plan.before, plan.after, plan.crop, plan.excess) == (0, 0, 0, 0)


def test_taps_of_a_kernel_of_three_are_those_worked_out_by_hand() -> None:
    # Outputs 2q and 2q + 1 of stride 2 and padding 1 see elements 1 of input q, and 2 and 0 of inputs q and q + 1.
    plan = plan_axis(kernel=3, stride=2, dilation=1, padding=(1, 1), output_padding=1)
    assert plan is not None
    assert plan.taps.tolist() == [[1, -1], [2, 0]]
    assert (plan.before, plan.after, plan.crop, plan.excess) == (0, 1, 0, 0)


def test_cropping_is_chosen_where_it_makes_the_kernel_smaller() -> None:
    plan = plan_axis(kernel=4, stride=2, dilation=1, padding=(1, 1), output_padding=0)
    assert plan is not None
    assert plan.taps.shape == (2, 2)
    assert (plan.crop, plan.excess) == (1, 1)


def test_there_is_no_plan_for_padding_beyond_the_kernel() -> None:
    assert plan_axis(kernel=1, stride=1, dilation=1, padding=(1, 1), output_padding=0) is None


@dataclass(frozen=True)
class Geometry:
    kernel: Pair
    stride: int
    padding: Pair = (0, 0)
    extra: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def plans(self) -> tuple[Axis, Axis]:
        rows, columns = (
            plan_axis(self.kernel[i], self.stride, self.dilation[i], (self.padding[i],) * 2, self.extra[i])
            for i in (0, 1)
        )
        assert rows is not None
        assert columns is not None
        return rows, columns


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((2, 2), 2),
        Geometry((4, 4), 2, (1, 1)),
        Geometry((3, 3), 2, (1, 1), (1, 1), groups=2),
        Geometry((3, 2), 3, (1, 0), (2, 1)),
        Geometry((5, 3), 2, (2, 1), (1, 0), (1, 2)),
        Geometry((2, 3), 4, (0, 1), (3, 0), groups=3),
        Geometry((3, 3), 1, (1, 1), dilation=(2, 1)),
        Geometry((1, 7), 5, (0, 3), (0, 4)),
    ],
    ids=str,
)
def test_ordinary_convolution_gives_the_same(geometry: Geometry) -> None:
    g, groups = geometry, geometry.groups
    images, bias = integers(2, 2 * groups, 4, 5), integers(3 * groups)
    weight = integers(2 * groups, 3, *g.kernel, seed=1)
    expected = F.conv_transpose2d(images, weight, bias, g.stride, g.padding, g.extra, groups, g.dilation)
    rows, columns = g.plans()
    rearranged = torch.from_numpy(rearrange_weight(weight.numpy(), rows, columns, groups))
    around = (columns.before, columns.after, rows.before, rows.after)
    phases = F.conv2d(F.pad(images, around), rearranged, bias.repeat_interleave(g.stride**2), groups=groups)
    whole = F.pixel_shuffle(phases, g.stride)
    height, width = whole.shape[2:]
    result = whole[:, :, rows.crop : height - rows.excess, columns.crop : width - columns.excess]
    assert result.shape == expected.shape
    assert torch.equal(result, expected)


def test_no_element_of_the_kernel_is_lost_or_used_twice() -> None:
    rows, columns = Geometry((4, 4), 2, (1, 1)).plans()
    weight = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    rearranged = rearrange_weight(weight, rows, columns, groups=1)
    assert sorted(rearranged.ravel()) == list(np.arange(1.0, 17.0))
