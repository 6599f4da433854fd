"""The curves of growth as one picture: a column for each quantity, a row for each task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import Row
from rcnn.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS, INK = "#5764F9", "#8A6D00", "#2B3038"
WIDTH, HEIGHT = 3.0, 2.7
"""Inches of a panel."""

SIDES = (("rcnn", OURS, "o"), ("torchvision", THEIRS, "D"))


def save(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the curves into a PNG file.

    Args:
        rows: of :mod:`benchmarks.growth`.
        path: of the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(str(row["axis"]) for row in rows))
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    # The object interface: no pyplot, which keeps every figure of the process in a global list.
    size = (WIDTH * len(axes_names) + 1, HEIGHT * len(tasks) + 0.8)
    figure = Figure(size, dpi=150, facecolor="white", layout="constrained")
    panels = figure.subplots(len(tasks), len(axes_names), squeeze=False)
    for line, task in enumerate(tasks):
        for column, axis in enumerate(axes_names):
            chosen = [row for row in rows if row["task"] == task and row["axis"] == axis]
            _draw(panels[line, column], chosen)
            if line == len(tasks) - 1:
                panels[line, column].set_xlabel(axis, fontsize=10, color=INK)
        panels[line, 0].set_ylabel(f"{task}, ms", fontsize=10, color=INK)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=2, frameon=False, labelcolor=INK
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, color=INK, weight="bold")
    with whole_file(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))


def _draw(panel: Axes, rows: Sequence[Row]) -> None:
    """Draw the medians of both sides, with their quartiles as bars."""
    values = [float(row["value"]) for row in rows]
    highest = 0.0
    for side, colour, marker in SIDES:
        name = f"{side} ms"
        middle = [float(row[name]) for row in rows]
        below = [float(row[name]) - float(row[f"{name} q1"]) for row in rows]
        above = [float(row[f"{name} q3"]) - float(row[name]) for row in rows]
        highest = max(highest, *(float(row[f"{name} q3"]) for row in rows))
        panel.errorbar(
            values,
            middle,
            yerr=[below, above],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=2,
            label=side,
        )
    panel.set_ylim(0, 1.08 * highest)
    panel.set_xlim(0, 1.05 * max(values))
    panel.tick_params(colors=INK, labelsize=9, length=0)
    panel.grid(color="#E3E6EB", linewidth=0.9)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color("#B7BDC7")
