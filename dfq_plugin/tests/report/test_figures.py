"""The plots: right pixels, right shapes, no trace in matplotlib's global state."""

from __future__ import annotations

import importlib
import io

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from dfq_plugin.report.figures import NARROW, WIDE, Look, draw_curves, draw_match, draw_sqnr
from dfq_plugin.report.sections import MatchRow


def pixels_of(png: bytes) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = matplotlib.image.imread(io.BytesIO(png), format="png")
    return pixels


EVERY_LOOK = pytest.mark.parametrize("look", [WIDE, NARROW], ids=["wide", "narrow"])
STEPS = [1.0, 2.0, 3.0]


class TestCurves:
    @EVERY_LOOK
    def test_curves_are_drawn_with_holes_and_single_points(self, look: Look) -> None:
        curves: dict[str, tuple[list[float], list[float | None]]] = {
            "a": (STEPS, [1.0, None, 0.001]),
            "b": ([1.0], [5.0]),
            "none": ([], []),
        }
        assert pixels_of(draw_curves(curves, "epoch", look))[..., 3].max() == 1.0

    def test_narrow_plot_is_narrow(self) -> None:
        wide, narrow = (pixels_of(draw_curves({"a": (STEPS, STEPS)}, "epoch", look)) for look in (WIDE, NARROW))
        assert narrow.shape[1] < 0.6 * wide.shape[1]

    def test_falling_curve_falls(self) -> None:
        pixels = pixels_of(draw_curves({"a": (STEPS, [3.0, 2.0, 1.0])}, "epoch", WIDE))
        line = blue_in(pixels)[pixels.shape[0] // 4 :]  # below the legend
        places = np.argwhere(line)
        left, right = (places[places[:, 1] == column, 0].mean() for column in (places[:, 1].min(), places[:, 1].max()))
        assert right > left + 100

    def test_pyplot_is_left_alone(self) -> None:
        pyplot = importlib.import_module("matplotlib.pyplot")
        draw_curves({"a": ([1.0], [1.0])}, "epoch", WIDE)
        assert pyplot.get_fignums() == []


class TestLayers:
    @EVERY_LOOK
    @pytest.mark.parametrize("layers", [1, 40, 41], ids=["one", "named", "many"])
    def test_sqnr_is_drawn_for_few_and_many_layers_and_for_two_runs(self, layers: int, look: Look) -> None:
        rows = [(f"layer{index}", float(index)) for index in range(layers)]
        series = {"A": [*rows[:-1], ("exact", float("inf"))], "B": rows[1:]}
        assert pixels_of(draw_sqnr(series, look)).ndim == 3

    def test_longer_bar_shows_higher_sqnr(self) -> None:
        blue = blue_in(pixels_of(draw_sqnr({"": [("low", 5.0), ("high", 40.0)]}, WIDE)))
        rows = np.flatnonzero(blue.any(axis=1))
        assert blue[rows[0]].sum() < 0.2 * blue[rows[-1]].sum()

    @EVERY_LOOK
    @pytest.mark.parametrize("layers", [1, 40, 41], ids=["one", "named", "many"])
    def test_match_is_drawn_for_few_and_many_layers_with_and_without_real_images(self, layers: int, look: Look) -> None:
        rows: list[MatchRow] = [
            {"layer": f"bn{index}", "noise": 30.0 + index, "synthetic": 0.5, "real": None} for index in range(layers)
        ]
        without = draw_match(rows, look)
        assert draw_match([{**row, "real": 0.25} for row in rows], look) != without

    def test_nearer_images_stand_further_left(self) -> None:
        rows: list[MatchRow] = [{"layer": "bn", "noise": 2.0, "synthetic": 0.5, "real": None}]
        pixels = pixels_of(draw_match(rows, WIDE))
        dots = blue_in(pixels)[pixels.shape[0] // 3 :]
        assert np.argwhere(dots)[:, 1].mean() < pixels.shape[1] / 2


def blue_in(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the first colour is."""
    distance = np.abs(pixels[..., :3] - np.array([0x25, 0x63, 0xEB]) / 255).max(axis=-1)
    found: NDArray[np.bool_] = np.logical_and(distance < 0.02, pixels[..., 3] > 0.9)
    return found
