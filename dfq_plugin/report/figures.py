"""Pictures for the report, as PNG: the contact sheet of the synthetic images, loss curves, SQNR per layer."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SHEET_COLUMNS = 8
SHEET_ROWS = 4
CELL_PIXELS = 96  # larger images are shrunk to about this, smaller ones enlarged by a whole factor
GAP_PIXELS = 4
NAMED_LAYERS = 40  # above this, bars are too many for names
WIDTH_INCHES = 9.0


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing: text and axes, faint lines, and the series in turn."""

    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Theme("#3b4453", "#dde2ea", ("#2563eb", "#d97706", "#0f9d76", "#9333ea", "#dc2626", "#64748b"))
DARK = Theme("#b8c1d0", "#343c4b", ("#7aa5ff", "#f0b04f", "#4fd1ac", "#c79bff", "#ff8a8a", "#94a3b8"))


def draw_contact_sheet(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> bytes:
    """Put the first images side by side, as PNG.

    Args:
        images: (N, C, H, W), in the teacher's normalised input space.
        mean: Per channel, of pixels in 0..1; without it every image is stretched from its minimum to its maximum.
        std: Likewise.

    Returns:
        A PNG with transparent gaps.
    """
    shown = images[: SHEET_COLUMNS * SHEET_ROWS].detach().cpu().float()
    pixels = _to_cells(_to_displayable(shown, mean, std))
    count, height, width, _ = pixels.shape
    columns = min(SHEET_COLUMNS, count)
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + GAP_PIXELS) - GAP_PIXELS, columns * (width + GAP_PIXELS) - GAP_PIXELS, 4))
    for index, cell in enumerate(pixels):
        top, left = (index // columns) * (height + GAP_PIXELS), (index % columns) * (width + GAP_PIXELS)
        sheet[top : top + height, left : left + width, :3] = cell
        sheet[top : top + height, left : left + width, 3] = 1.0
    png = io.BytesIO()
    matplotlib.image.imsave(png, sheet, format="png")
    return png.getvalue()


def _to_displayable(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Bring images to 0..1 and three channels, (N, 3, H, W)."""
    images = images.nan_to_num()
    channels = images.shape[1]
    if mean is not None and std is not None and len(mean) == len(std) == channels:
        images = images * images.new_tensor(std).view(1, -1, 1, 1) + images.new_tensor(mean).view(1, -1, 1, 1)
    else:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp_min(1e-12)
    if channels != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return images.clamp(0.0, 1.0)


def _to_cells(images: Tensor) -> NDArray[np.float64]:
    """Resize to about ``CELL_PIXELS``, keeping the shape of a pixel; (N, 3, H, W) to (N, height, width, 3)."""
    longest = max(images.shape[-2:])
    if longest > CELL_PIXELS:
        images = F.interpolate(images, scale_factor=CELL_PIXELS / longest, mode="area")
    else:
        factor = CELL_PIXELS // longest
        images = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return images.permute(0, 2, 3, 1).double().numpy()


def draw_losses(losses: Mapping[str, Sequence[float | None]], theme: Theme) -> bytes:
    """Draw the course of each loss over time, as PNG; logarithmic when the values span more than a factor of 30."""
    figure, axes = _blank(3.2, theme)
    series = {name: [math.nan if value is None else value for value in values] for name, values in losses.items()}
    for index, (name, values) in enumerate(series.items()):
        marker = "o" if len(values) < 3 else None  # one or two values make no visible line
        axes.plot(range(1, len(values) + 1), values, marker=marker, lw=1.8, label=name, color=_colour(theme, index))
    finite = [value for values in series.values() for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > 30:
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, labelcolor=theme.ink, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
    return _png(figure)


def draw_sqnr(sqnr: Sequence[tuple[str, float | None]], theme: Theme) -> bytes:
    """Draw the signal to quantization noise ratio of each layer in execution order, as PNG; exact layers stay empty."""
    few = len(sqnr) <= NAMED_LAYERS
    figure, axes = _blank(max(1.6, 0.24 * len(sqnr) + 0.7) if few else 3.2, theme)
    values = [value if value is not None and math.isfinite(value) else math.nan for _, value in sqnr]
    places = range(len(values))
    if few:
        axes.barh(places, values, color=theme.series[0], height=0.7)
        axes.set_yticks(places, [name for name, _ in sqnr])
        axes.invert_yaxis()
        axes.set_xlabel("SQNR in dB")
        axes.grid(visible=False, axis="y")
    else:
        axes.bar(places, values, color=theme.series[0], width=0.85)
        axes.set_xlabel("layer, in execution order")
        axes.set_ylabel("SQNR in dB")
        axes.grid(visible=False, axis="x")
    return _png(figure)


def _colour(theme: Theme, index: int) -> str:
    return theme.series[index % len(theme.series)]


def _blank(height_inches: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen and leaves pyplot's global figures alone
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(color=theme.faint, linewidth=0.8)
    axes.tick_params(colors=theme.ink, length=0, labelsize=9)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.patch.set_alpha(0.0)
    figure.patch.set_alpha(0.0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    return png.getvalue()
