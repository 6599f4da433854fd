"""A report as a picture: the paper's figures and ours side by side, row by row.

Both panels of a percentage span equally much, so that an effect is as long here as there, even
where the figures themselves lie far apart because ours were measured on other data.
"""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcnn.report.comparison import Report
from rcnn.report.figures import Figure, spelled_figure
from rcnn.report.plan import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, OURS, INK, QUIET, BAND = "#8A6D00", "#5764F9", "#2B3038", "#8A93A3", "#F5F6F8"
ROW, HEAD, FOOT, WIDTH = 0.4, 0.95, 1.0, 10.0
"""Inches: a row, what stands above and below a panel, the notes at the end, and the whole width."""

DECADES = 20
"""If the greatest figure is so many times the smallest, the axis counts powers of ten."""


@dataclass(frozen=True)
class Panel:
    """One measure, the paper's or ours.

    Attributes:
        title: above it.
        figures: of each row.
        column: what is measured.
        span: of the axis; None: from nought, or in powers of ten.
        colour: of the marks.
        marker: their shape.
    """

    title: str
    figures: Sequence[Figure]
    column: Column
    span: float | None
    colour: str
    marker: str


def can_draw() -> bool:
    """Say whether matplotlib, the extra ``plots``, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def picture(report: Report) -> bytes:
    """Draw a report as PNG: for each measure a panel of ours, beside the paper's if it has one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    tiers, rows = _tiers(report), max(1, len(report.lines))
    height = FOOT + len(tiers) * (HEAD + ROW * rows)
    # The object interface: no pyplot, which keeps every figure of the process in a global list.
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1)
    canvas = Canvas((WIDTH, height), dpi=150, layout=layout)
    grid = canvas.subplots(len(tiers), max(map(len, tiers)), sharey=True, squeeze=False)
    for tier, places in zip(tiers, grid, strict=True):
        for axes in places[len(tier) :]:
            axes.set_visible(False)
        for panel, axes in zip(tier, places, strict=False):
            _draw(axes, panel)
            _scale(axes, panel)
            for place, line in enumerate(report.lines):
                if line.ends_table:
                    axes.axhline(place + 0.5, color=QUIET, linewidth=1)
    labels = ["\n".join(textwrap.wrap(" / ".join(line.cells), 32)) for line in report.lines]
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(labels)), labels, fontsize=10.5, color=INK)
        axes.set_ylim(rows - 0.5, -0.5)
    if report.title:
        canvas.suptitle(report.title, x=0.01, ha="left", fontsize=14, color=INK, weight="bold")
    canvas.supxlabel(_legend(report), x=0.01, ha="left", fontsize=9, color=INK, linespacing=1.5)
    file = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(file)
    return file.getvalue()


def _tiers(report: Report) -> list[list[Panel]]:
    """Return the panels line by line: a measure with the paper's figures has a line of its own."""
    tiers: list[list[Panel]] = []
    single: list[Panel] = []
    for k, column in enumerate(report.columns):
        ours = [line.ours[k] for line in report.lines]
        paper = [Figure(() if (f := line.paper[k]) is None else (f,)) for line in report.lines]
        span = _common_span([_ends(paper), _ends(ours)]) if column.unit == "%" else None
        if any(figure.values for figure in paper):
            tiers.append(
                [
                    Panel(f"{column.heading}, paper", paper, column, span, PAPER, "D"),
                    Panel(f"{column.heading}, ours", ours, column, span, OURS, "o"),
                ]
            )
        else:
            single.append(Panel(column.heading, ours, column, span, OURS, "o"))
    return tiers + [single[start : start + 2] for start in range(0, len(single), 2)]


def _ends(figures: Sequence[Figure]) -> list[float]:
    """Return all values that have to find room on an axis."""
    return [value for figure in figures for value in (*figure.values, *figure.interval)]


def _common_span(ends: Sequence[Sequence[float]]) -> float:
    return 1.2 * max([1.0, *(max(each) - min(each) for each in ends if each)])


def _draw(axes: Axes, panel: Panel) -> None:
    for place, figure in enumerate(panel.figures):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, zorder=0, linewidth=0)
        # The figure itself stands at the right edge, level with its mark.
        axes.annotate(
            spelled_figure(figure, panel.column.unit),
            (1.03, place),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=10.5,
            color=INK if figure.values else QUIET,
            annotation_clip=False,
        )
        if figure.mean is None:
            continue
        if len(figure.values) > 1:
            axes.plot(
                figure.values,
                [place] * len(figure.values),
                "|",
                color=panel.colour,
                markersize=9,
                alpha=0.6,
            )
        axes.plot(figure.interval, [place] * 2, color=panel.colour, linewidth=2.2)
        axes.plot(figure.mean, place, panel.marker, color=panel.colour, markersize=7.5)


def _scale(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.set_title(panel.title, loc="left", fontsize=11, color=INK, pad=8)
    axes.tick_params(colors=INK, labelsize=9.5, length=0, which="both")
    axes.grid(axis="x", color="#DFE3E9", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    ends = _ends(panel.figures)
    if not ends:
        axes.set_xticks([])
    elif panel.span is not None:
        middle = (min(ends) + max(ends)) / 2
        axes.set_xlim(middle - panel.span / 2, middle + panel.span / 2)
    elif min(ends) > 0 and max(ends) / min(ends) >= DECADES:
        axes.set_xscale("log")
        axes.set_xlim(min(ends) / 2, max(ends) * 2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(min(0.0, 1.1 * min(ends)), 1.1 * max(ends) or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # numbers of six digits stay apart


def _legend(report: Report) -> str:
    lines = [f"Paper: {report.source}.", f"Ours: {report.ours}."] if report.source else []
    lines = lines or [f"Runs: {report.ours}."]
    if any(figure.spread is not None for line in report.lines for figure in line.ours):
        lines.append("Dot and bar: mean ± sample standard deviation; strokes: single runs.")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 130))
