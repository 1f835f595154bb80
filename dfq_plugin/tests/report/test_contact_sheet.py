"""The contact sheet: right pixels in the right places, classes in rows of their own."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfq_plugin.report.contact_sheet import (
    CELL_PIXELS,
    GAP_PIXELS,
    Strip,
    count_shown,
    draw_contact_sheet,
    to_displayable,
)
from dfq_plugin.report.pictures import Pictures


def pixels_of(strip: Strip) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = matplotlib.image.imread(io.BytesIO(strip.png), format="png")
    return pixels


def numbered(labels: list[int]) -> Pictures:
    """Flat images whose brightness is their index, in hundredths."""
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 1, 96, 96) / 100
    return Pictures(images, torch.tensor(labels), (0.0,), (1.0,))


def shown(strip: Strip) -> list[int]:
    """Which images a strip of numbered ones holds."""
    row = pixels_of(strip)[48, 48 :: 96 + GAP_PIXELS]
    return [round(100 * float(cell[0])) for cell in row if cell[3] == 1.0]


def test_undoes_the_normalisation() -> None:
    images = torch.zeros(1, 3, 96, 96)  # zero is the mean colour
    (strip,) = draw_contact_sheet(Pictures(images, None, (0.2, 0.4, 0.6), (1.0, 1.0, 1.0)))
    assert pixels_of(strip).shape == (96, 96, 4)
    np.testing.assert_allclose(pixels_of(strip)[48, 48], [0.2, 0.4, 0.6, 1.0], atol=1 / 255)


def test_scales_by_std_and_cuts_off_at_white() -> None:
    images = torch.tensor([1.0, 10.0]).view(1, 1, 1, 2)
    found = to_displayable(images, mean=(0.5,), std=(0.25,))
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[0.75, 1.0]] * 3))


def test_stretches_each_image_when_the_normalisation_is_not_known() -> None:
    images = torch.tensor([[-2.0, 2.0], [0.0, 10.0]]).view(2, 1, 1, 2)
    found = to_displayable(images, None, None)
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_rows_are_equally_wide_with_transparent_gaps() -> None:
    strips = draw_contact_sheet(Pictures(torch.rand(9, 3, 8, 8)))
    side = CELL_PIXELS // 8 * 8
    assert [pixels_of(strip).shape[:2] for strip in strips] == [(side, 8 * side + 7 * GAP_PIXELS)] * 2
    assert pixels_of(strips[0])[0, side, 3] == 0.0
    assert pixels_of(strips[1])[0, side - 1, 3] == 1.0
    assert pixels_of(strips[1])[-1, -1, 3] == 0.0


def test_images_without_labels_stand_in_reading_order_and_32_spread_over_the_set_are_shown() -> None:
    pictures = Pictures(numbered([0] * 40).images, None, (0.0,), (1.0,))
    strips = draw_contact_sheet(pictures)
    assert [strip.label for strip in strips] == [None] * 4
    seen = [index for strip in strips for index in shown(strip)]
    assert seen == sorted(set(seen))
    assert (len(seen), seen[0], seen[-1]) == (32, 0, 38)
    assert count_shown(pictures) == 32


def test_rows_are_classes_when_each_has_several_images() -> None:
    pictures = numbered([7, 2, 7, 2, 7, 2, 2])
    strips = draw_contact_sheet(pictures)
    assert [(strip.label, shown(strip)) for strip in strips] == [(2, [1, 3, 5, 6]), (7, [0, 2, 4])]
    assert count_shown(pictures) == 7


def test_largest_ten_classes_are_shown_with_eight_images_each() -> None:
    labels = [label for label in range(12) for _ in range(20 - label)]
    strips = draw_contact_sheet(Pictures(torch.rand(len(labels), 1, 4, 4), torch.tensor(labels)))
    assert [strip.label for strip in strips] == list(range(10))
    assert {pixels_of(strip).shape[1] for strip in strips} == {8 * 96 + 7 * GAP_PIXELS}


def test_labels_are_left_out_when_a_class_has_an_image_or_two_only() -> None:
    assert [strip.label for strip in draw_contact_sheet(numbered([0, 1, 2, 0, 1]))] == [None]


def test_large_images_are_shrunk() -> None:
    strips = draw_contact_sheet(Pictures(torch.rand(2, 3, 192, 96)))
    assert pixels_of(strips[0]).shape[:2] == (96, 2 * 48 + GAP_PIXELS)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_is_shown(channels: int) -> None:
    (strip,) = draw_contact_sheet(Pictures(torch.rand(1, channels, 5, 7)))
    assert strip.png.startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_images_without_contrast_are_shown(value: float) -> None:
    flat: Tensor = torch.full((1, 3, 8, 8), value)
    assert torch.equal(to_displayable(flat, None, None), torch.zeros(1, 3, 8, 8))
