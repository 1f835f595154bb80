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
CHARACTER, NUMBER, FOOT, LINE = 0.078, 6, 0.5, 0.2  # inches; a number on an axis has about six characters
Points = tuple[Sequence[float], Sequence[float | None]]


@dataclass(frozen=True)
class Look:
    """The size of a plot.

    Attributes:
        width: Inches.
        dpi: Pixels an inch.
        longest_name: Characters of a layer's name; longer ones lose their beginning.
    """

    width: float
    dpi: int
    longest_name: int


WIDE, NARROW = Look(9.0, 144, 48), Look(3.7, 192, 18)  # the second for a telephone
INK, FAINT = "#3b4453", "#cdd5df"  # text, and lines of the grid; a page turns them over on a dark screen
SERIES = ("#2563eb", "#c2570c", "#0a7f5f", "#9333ea", "#dc2626", "#64748b")


def draw_curves(curves: Mapping[str, Points], xlabel: str, look: Look) -> bytes:
    """Draw values over steps or epochs, as PNG; logarithmic when they span more than a factor of 30.

    Args:
        curves: By name, the places and the values; None leaves a hole.
        xlabel: What the places count.
        look: The size.
    """
    axes = _blank(3.2, look, legend=list(curves))
    for index, (name, (places, values)) in enumerate(curves.items()):
        finite = [math.nan if value is None else value for value in values]
        marker = "o" if len(finite) < 3 else None  # one or two values make no visible line
        axes.plot(list(places), finite, marker=marker, lw=1.6, label=name, color=_colour(index))
    _maybe_logarithmic(axes, [value for _, values in curves.values() for value in values])
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own puts a common factor where the legend is
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9 if look.width > 5 else 5, integer=True))
    return _finish(axes, look)


def draw_match(rows: Sequence[MatchRow], look: Look) -> bytes:
    """Draw how far each kind of images is from the statistics of each BatchNorm layer, as PNG."""
    kinds = [kind for kind in ("noise", "synthetic", "real") if any(_of(row, kind) is not None for row in rows)]
    few, places = len(rows) <= NAMED_LAYERS, list(range(len(rows)))
    layers = [row["layer"] for row in rows]
    axes = _blank(_height(len(rows)), look, legend=kinds, names=layers if few else ())
    colours = {"noise": SERIES[5], "synthetic": SERIES[0], "real": SERIES[2]}
    for kind in kinds:
        values = [_number(_of(row, kind)) for row in rows]
        across, up = (values, places) if few else (places, values)
        size, style = (5, "") if few else (3, "-")
        axes.plot(across, up, "o", ls=style, ms=size, lw=1.2, color=colours[kind], label=kind)
    _maybe_logarithmic(axes, [_of(row, kind) for row in rows for kind in kinds], across=few)
    _name_layers(axes, layers, "distance, in standard deviations", look)
    return _finish(axes, look)


def draw_sqnr(series: Mapping[str, Sequence[tuple[str, float | None]]], look: Look) -> bytes:
    """Draw the signal to quantization noise ratio of each layer in execution order, as PNG; exact layers stay empty.

    Args:
        series: By name, for one run or several, ``(layer, dB)``; layers that the first one lacks are left out.
        look: The size.
    """
    layers = [name for name, _ in next(iter(series.values()))]
    few = len(layers) <= NAMED_LAYERS
    height = _height(len(layers) * (1.4 if len(series) > 1 else 1))
    axes = _blank(height, look, legend=list(series) if len(series) > 1 else (), names=layers if few else ())
    thick = 0.75 / len(series)
    for index, (name, rows) in enumerate(series.items()):
        known = dict(rows)
        values = [_number(known.get(layer)) for layer in layers]
        places = [place + thick * (index - (len(series) - 1) / 2) for place in range(len(layers))]
        draw = axes.barh if few else axes.bar
        draw(places, values, thick, color=_colour(index), label=name)
    _name_layers(axes, layers, "SQNR in dB", look)
    return _finish(axes, look)


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
    return name if len(name) <= longest else f"…{name[1 - longest :]}"  # names differ at their end


def _maybe_logarithmic(axes: Axes, values: Sequence[float | None], *, across: bool = False) -> None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > LOGARITHMIC:
        (axes.set_xscale if across else axes.set_yscale)("log")


def _of(row: MatchRow, kind: str) -> float | None:
    found: float | None = dict(row)[kind]  # type: ignore[assignment]
    return found


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _height(layers: float) -> float:
    return max(1.5, 0.24 * layers + 0.6) if layers <= 1.4 * NAMED_LAYERS else 3.2


def _blank(height_inches: float, look: Look, *, legend: Sequence[str] = (), names: Sequence[str] = ()) -> Axes:
    """Empty axes with room for a legend above and for names on the left.

    The room is reckoned from the number of characters: measuring the text makes a plot take twice as long.
    """
    head = 0.12 + LINE * math.ceil(len(legend) / _columns(legend, look))
    longest = max((min(len(name), look.longest_name) for name in names), default=NUMBER)
    height = height_inches + head
    figure = Figure(figsize=(look.width, height), dpi=look.dpi)
    FigureCanvasAgg(figure)  # draws without a screen and leaves pyplot's global figures alone
    left, right = CHARACTER * longest + (0.15 if names else 0.3), look.width - 0.15
    axes = figure.add_axes((left / look.width, FOOT / height, (right - left) / look.width, 1 - (FOOT + head) / height))
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.tick_params(colors=INK, which="both", length=0, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.patch.set_alpha(0.0)
    figure.patch.set_alpha(0.0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _columns(legend: Sequence[str], look: Look) -> int:
    longest = max(map(len, legend), default=1) + 8  # with the line before it and the gap behind
    return max(1, min(4, int(look.width / CHARACTER / longest)))


def _finish(axes: Axes, look: Look) -> bytes:
    figure, (handles, names) = axes.get_figure(root=True), axes.get_legend_handles_labels()
    if figure is None:  # never: the axes were made in one
        return b""
    if names:
        style = {"frameon": False, "labelcolor": INK, "fontsize": 9, "ncols": _columns(names, look)}
        figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, **style)
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    return png.getvalue()
