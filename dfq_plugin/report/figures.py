"""Plots for the report, as PNG: loss curves, BatchNorm statistics and SQNR per layer."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dfq_plugin.report.sections import MatchRow

NAMED_LAYERS = 40  # above this, bars are too many for names
LOGARITHMIC = 30  # values that span more than this factor
Points = tuple[Sequence[float], Sequence[float | None]]


@dataclass(frozen=True)
class Look:
    """How a plot is drawn: colours of text, of faint lines and of the series in turn, and its size.

    Attributes:
        ink: Text and axes.
        faint: Grid.
        series: Lines and bars, in turn.
        width: Inches.
        dpi: Pixels an inch.
        longest_name: Characters of a layer's name; longer ones lose their middle.
    """

    ink: str
    faint: str
    series: tuple[str, ...]
    width: float = 9.0
    dpi: int = 144
    longest_name: int = 48

    def narrow(self) -> Look:
        """The same for a telephone."""
        return Look(self.ink, self.faint, self.series, width=3.7, dpi=192, longest_name=18)


LIGHT = Look("#3b4453", "#dde2ea", ("#2563eb", "#c2570c", "#0a7f5f", "#9333ea", "#dc2626", "#64748b"))
DARK = Look("#b8c1d0", "#343c4b", ("#7aa5ff", "#f0b04f", "#4fd1ac", "#c79bff", "#ff8a8a", "#94a3b8"))


def draw_curves(curves: Mapping[str, Points], xlabel: str, look: Look) -> bytes:
    """Draw values over steps or epochs, as PNG; logarithmic when they span more than a factor of 30.

    Args:
        curves: By name, the places and the values; None leaves a hole.
        xlabel: What the places count.
        look: Colours and size.
    """
    figure, axes = _blank(3.2, look)
    for index, (name, (places, values)) in enumerate(curves.items()):
        finite = [math.nan if value is None else value for value in values]
        marker = "o" if len(finite) < 3 else None  # one or two values make no visible line
        axes.plot(list(places), finite, marker=marker, lw=1.6, label=name, color=_colour(look, index))
    _maybe_logarithmic(axes, [value for _, values in curves.values() for value in values])
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9 if look.width > 5 else 5, integer=True))
    _legend(axes, look)
    return _png(figure)


def draw_match(rows: Sequence[MatchRow], look: Look) -> bytes:
    """Draw how far each kind of images is from the statistics of each BatchNorm layer, as PNG."""
    kinds = {"noise": "noise", "synthetic": "synthetic images", "real": "real images"}
    few, places = len(rows) <= NAMED_LAYERS, list(range(len(rows)))
    figure, axes = _blank(_height(len(rows)), look)
    colours = {"noise": look.series[5], "synthetic": look.series[0], "real": look.series[2]}
    for kind, words in kinds.items():
        values = [_number(row[kind]) for row in rows]  # type: ignore[literal-required] - the kinds are its keys
        if not all(map(math.isnan, values)):
            across, up = (values, places) if few else (places, values)
            style = "" if few else "-"
            axes.plot(across, up, "o", ls=style, ms=5 if few else 3, lw=1.2, color=colours[kind], label=words)
    _maybe_logarithmic(axes, [row[kind] for row in rows for kind in kinds], across=few)  # type: ignore[literal-required]
    _name_layers(axes, [row["layer"] for row in rows], "distance, in standard deviations", look)
    _legend(axes, look)
    return _png(figure)


def draw_sqnr(series: Mapping[str, Sequence[tuple[str, float | None]]], look: Look) -> bytes:
    """Draw the signal to quantization noise ratio of each layer in execution order, as PNG; exact layers stay empty.

    Args:
        series: By name, for one run or several, ``(layer, dB)``; layers that the first one lacks are left out.
        look: Colours and size.
    """
    layers = [name for name, _ in next(iter(series.values()))]
    few = len(layers) <= NAMED_LAYERS
    figure, axes = _blank(_height(len(layers) * (1.4 if len(series) > 1 else 1)), look)
    thick = 0.75 / len(series)
    for index, (name, rows) in enumerate(series.items()):
        known = dict(rows)
        values = [_number(known.get(layer)) for layer in layers]
        places = [place + thick * (index - (len(series) - 1) / 2) for place in range(len(layers))]
        draw = axes.barh if few else axes.bar
        draw(places, values, thick, color=_colour(look, index), label=name)
    _name_layers(axes, layers, "SQNR in dB", look)
    if len(series) > 1:
        _legend(axes, look)
    return _png(figure)


def _name_layers(axes: Axes, layers: Sequence[str], what: str, look: Look) -> None:
    """Put few layers on the vertical axis by name, from top to bottom, and many on the horizontal one by number."""
    if len(layers) <= NAMED_LAYERS:
        axes.set_yticks(range(len(layers)), [_shorten(name, look.longest_name) for name in layers])
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlabel(what)
        axes.grid(visible=False, axis="y")
    else:
        axes.set_xlabel("layer, in execution order")
        axes.set_ylabel(what)
        axes.grid(visible=False, axis="x")


def _shorten(name: str, longest: int) -> str:
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _maybe_logarithmic(axes: Axes, values: Sequence[float | None], *, across: bool = False) -> None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > LOGARITHMIC:
        (axes.set_xscale if across else axes.set_yscale)("log")


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def _colour(look: Look, index: int) -> str:
    return look.series[index % len(look.series)]


def _height(layers: float) -> float:
    return max(1.7, 0.24 * layers + 0.8) if layers <= 1.4 * NAMED_LAYERS else 3.2


def _legend(axes: Axes, look: Look) -> None:
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    columns = max(1, min(4, int(look.width * 11 / (longest + 6))))  # about eleven characters an inch
    place = {"loc": "outside upper left", "ncols": columns}
    axes.get_figure().legend(handles, names, frameon=False, labelcolor=look.ink, fontsize=9, **place)


def _blank(height_inches: float, look: Look) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(look.width, height_inches), dpi=look.dpi, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen and leaves pyplot's global figures alone
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(color=look.faint, linewidth=0.8)
    axes.tick_params(colors=look.ink, which="both", length=0, labelsize=9)
    axes.xaxis.label.set_color(look.ink)
    axes.yaxis.label.set_color(look.ink)
    axes.patch.set_alpha(0.0)
    figure.patch.set_alpha(0.0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    return png.getvalue()
