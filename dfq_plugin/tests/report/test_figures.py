"""The pictures: right pixels, right shapes, no trace in matplotlib's global state."""

from __future__ import annotations

import importlib
import io

import matplotlib.image
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dfq_plugin.report.figures import (
    CELL_PIXELS,
    DARK,
    GAP_PIXELS,
    LIGHT,
    _to_displayable,
    draw_contact_sheet,
    draw_losses,
    draw_sqnr,
)


def pixels_of(png: bytes) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = matplotlib.image.imread(io.BytesIO(png), format="png")
    return pixels


class TestContactSheet:
    def test_undoes_the_normalisation(self) -> None:
        images = torch.zeros(1, 3, 96, 96)  # zero is the mean colour
        sheet = pixels_of(draw_contact_sheet(images, mean=(0.2, 0.4, 0.6), std=(1.0, 1.0, 1.0)))
        assert sheet.shape == (96, 96, 4)
        np.testing.assert_allclose(sheet[48, 48], [0.2, 0.4, 0.6, 1.0], atol=1 / 255)

    def test_scales_by_std_and_cuts_off_at_white(self) -> None:
        images = torch.tensor([1.0, 10.0]).view(1, 1, 1, 2)
        shown = _to_displayable(images, mean=(0.5,), std=(0.25,))
        torch.testing.assert_close(shown[0, :, 0], torch.tensor([[0.75, 1.0]] * 3))

    def test_stretches_each_image_when_the_normalisation_is_not_known(self) -> None:
        images = torch.tensor([[-2.0, 2.0], [0.0, 10.0]]).view(2, 1, 1, 2)
        shown = _to_displayable(images, None, None)
        torch.testing.assert_close(shown[:, 0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))

    def test_is_a_grid_with_transparent_gaps(self) -> None:
        sheet = pixels_of(draw_contact_sheet(torch.rand(9, 3, 8, 8), None, None))
        side = CELL_PIXELS // 8 * 8
        assert sheet.shape[:2] == (2 * side + GAP_PIXELS, 8 * side + 7 * GAP_PIXELS)
        assert sheet[0, side, 3] == 0.0
        assert sheet[side + GAP_PIXELS, side - 1, 3] == 1.0
        assert sheet[-1, -1, 3] == 0.0

    def test_puts_images_in_reading_order(self) -> None:
        images = torch.zeros(9, 1, 96, 96)
        images[1] = 1.0
        sheet = pixels_of(draw_contact_sheet(images, (0.0,), (1.0,)))
        assert sheet[0, 100, 0] == 1.0
        assert sheet[100, 0, 0] == 0.0

    def test_shows_the_first_32_images_shrunk(self) -> None:
        sheet = pixels_of(draw_contact_sheet(torch.rand(40, 3, 192, 96), None, None))
        assert sheet.shape[:2] == (4 * 96 + 3 * GAP_PIXELS, 8 * 48 + 7 * GAP_PIXELS)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_shows_any_number_of_channels(self, channels: int) -> None:
        assert draw_contact_sheet(torch.rand(1, channels, 5, 7), None, None).startswith(b"\x89PNG")

    @pytest.mark.parametrize("value", [0.0, float("nan")])
    def test_shows_images_without_contrast(self, value: float) -> None:
        assert torch.equal(_to_displayable(torch.full((1, 3, 8, 8), value), None, None), torch.zeros(1, 3, 8, 8))


class TestCurves:
    def test_losses_are_drawn_with_holes_and_single_points(self) -> None:
        pixels = pixels_of(draw_losses({"a": [1.0, None, 0.001], "b": [5.0], "none": []}, LIGHT))
        assert pixels[..., 3].max() == 1.0

    def test_themes_differ(self) -> None:
        assert draw_losses({"a": [1.0, 2.0]}, LIGHT) != draw_losses({"a": [1.0, 2.0]}, DARK)

    @pytest.mark.parametrize("layers", [1, 40, 41], ids=["one", "named", "many"])
    def test_sqnr_is_drawn_for_few_and_many_layers(self, layers: int) -> None:
        rows = [(f"layer{index}", float(index)) for index in range(layers)]
        assert pixels_of(draw_sqnr([*rows[:-1], ("exact", float("inf"))], LIGHT)).ndim == 3

    def test_longer_bar_shows_higher_sqnr(self) -> None:
        pixels = pixels_of(draw_sqnr([("low", 5.0), ("high", 40.0)], LIGHT))
        blue = (np.abs(pixels[..., :3] - np.array([0x25, 0x63, 0xEB]) / 255) < 0.02).all(axis=-1) & (
            pixels[..., 3] > 0.9
        )
        rows = np.flatnonzero(blue.any(axis=1))
        assert blue[rows[0]].sum() < 0.2 * blue[rows[-1]].sum()

    def test_pyplot_is_left_alone(self) -> None:
        pyplot = importlib.import_module("matplotlib.pyplot")
        draw_losses({"a": [1.0]}, LIGHT)
        assert pyplot.get_fignums() == []
