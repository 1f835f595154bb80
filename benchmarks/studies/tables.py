"""Tables and plots of the studies, with the published values beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

PAGES, REMARKS = Path(__file__).parents[2] / "docs" / "studies", Path(__file__).parent / "remarks"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and with several seeds the sample standard deviation; a dash where nothing was measured."""
    if not values:
        return "-"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


COST = ("minutes, images", "minutes, the rest", "GB")


def cost(rows: Sequence[Mapping[str, Any]], images: float) -> tuple[str, str, str]:
    """The cells of COST: minutes for the images when they were made, minutes for all else, and the most memory."""
    rest = mean(row["minutes"] - row["images_minutes"] for row in rows)
    return f"{images:.1f}", f"{rest:.1f}", f"{max(row['memory_gb'] for row in rows):.1f}"


def write_page(name: str, title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write ``docs/studies/NAME.md``: a title, what was done, and one table."""
    write_text(name, [f"# {title}", text.strip(), table_of(header, rows)])


def write_text(name: str, parts: Sequence[str]) -> None:
    """Write ``docs/studies/NAME.md`` from its paragraphs, and from ``remarks/NAME.md`` where there are any."""
    PAGES.mkdir(parents=True, exist_ok=True)
    remarks = REMARKS / f"{name}.md"
    said = [remarks.read_text().strip()] if remarks.exists() else []
    (PAGES / f"{name}.md").write_text("\n\n".join([*parts, *said]) + "\n")


def table_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def plot(name: str, axes: tuple[str, str], lines: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """Draw ``docs/studies/NAME.svg``: each line's mean over its seeds at every x, with their spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = name  # the same picture every time
    figure, axis = plt.subplots(figsize=(6.4, 4.0))
    for label, points in lines.items():
        places = sorted(points)
        middle = [mean(points[place]) for place in places]
        around = [stdev(points[place]) if len(points[place]) > 1 else 0.0 for place in places]
        axis.errorbar(places, middle, around, marker="o", capsize=3, label=label)
    axis.set(xlabel=axes[0], ylabel=axes[1])
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
