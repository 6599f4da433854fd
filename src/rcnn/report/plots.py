"""The picture of a report: the paper's figures and ours side by side, row by row."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from rcnn.report.runs import Column
from rcnn.report.tables import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, OURS, INK, PALE, BAND = "#8A6D00", "#5764F9", "#2B3038", "#8A93A3", "#F5F6F8"


class Panel(NamedTuple):
    """One measure of all rows, the paper's or ours.

    Attributes:
        title: text above the panel.
        figures: values (tuples), mean and standard deviation of each row; NaN is unknown.
        column: the measure.
        span: length of the axis; None for an axis that begins at 0 or counts powers of ten.
        colour: colour of the marks.
    """

    title: str
    figures: pd.DataFrame
    column: Column
    span: float | None
    colour: str


def can_plot() -> bool:
    """Return whether matplotlib, the extra ``plots``, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_report(report: Report) -> bytes:
    """Return a PNG with a panel of our figures for each measure, beside the paper's if it has one.

    Both panels of a percentage span equally much, so that an effect has one length in both, even
    where the figures lie far apart because ours were measured on other data.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    tiers, rows = _tiers(report), max(1, len(report.lines))
    labels = ["\n".join(textwrap.wrap(line.name, 32)) for line in report.lines]
    size = (10.0, 1.0 + len(tiers) * (0.95 + 0.4 * rows))  # inches
    file = io.BytesIO()
    # A name is text: a dollar sign in it begins no formula.
    with mpl.rc_context({"text.parse_math": False, "text.color": INK}):
        # The object interface: pyplot keeps every figure of the process in a global list.
        layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1)
        figure = Figure(size, dpi=150, layout=layout)
        grid = figure.subplots(len(tiers), max(map(len, tiers)), sharey=True, squeeze=False)
        for tier, slots in zip(tiers, grid, strict=True):
            for axes in slots[len(tier) :]:
                axes.set_visible(False)
            for panel, axes in zip(tier, slots, strict=False):
                _draw(axes, panel)
                _scale(axes, panel)
                for n, line in enumerate(report.lines[1:]):
                    if line.section != report.lines[n].section:
                        axes.axhline(n + 0.5, color=PALE, linewidth=1)
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(labels)), labels, fontsize=10.5)
            axes.set_ylim(rows - 0.5, -0.5)
        if report.plan:
            figure.suptitle(report.plan.title, x=0.01, ha="left", fontsize=14, weight="bold")
        figure.supxlabel(_legend(report), x=0.01, ha="left", fontsize=9, linespacing=1.5)
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _tiers(report: Report) -> list[list[Panel]]:
    """Return the panels row by row: a measure with figures of the paper has a row of its own."""
    tiers, single = [], []
    for title, column in report.columns.items():
        figures = report.figures[report.figures.index.get_level_values("title") == title]
        ours = figures[["values", "ours", "std"]]
        paper = figures[["paper"]].assign(std=float("nan"))
        paper.insert(0, "values", [() if pd.isna(value) else (value,) for value in paper["paper"]])
        lengths = [max(ends) - min(ends) for each in (ours, paper) if (ends := _ends(each))]
        span = 1.2 * max([1.0, *lengths]) if column.unit == "%" else None
        head = column.heading(title)
        if report.plan and paper["paper"].notna().any():
            left = f"{head}, paper, {report.plan.data}"
            right = f"{head}, ours, {report.our_data}"
            tiers.append(
                [Panel(left, paper, column, span, PAPER), Panel(right, ours, column, span, OURS)]
            )
        else:
            single.append(Panel(head, ours, column, span, OURS))
    return tiers + [single[start : start + 2] for start in range(0, len(single), 2)]


def _ends(figures: pd.DataFrame) -> list[float]:
    """Return all values that the axis of a panel has to show."""
    mean, spread = figures.iloc[:, 1], figures["std"].fillna(0.0)
    return [
        *figures["values"].explode().dropna(),
        *(mean - spread).dropna(),
        *(mean + spread).dropna(),
    ]


def _draw(axes: Axes, panel: Panel) -> None:
    for n, (values, mean, std) in enumerate(panel.figures.itertuples(index=False)):
        if n % 2 == 0:
            axes.axhspan(n - 0.5, n + 0.5, color=BAND, zorder=0, linewidth=0)
        # The figure itself is written at the right edge, level with its mark.
        axes.annotate(
            panel.column.text(mean, std),
            (1.03, n),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=10.5,
            color=INK if values else PALE,
            annotation_clip=False,
        )
        if len(values) > 1:
            axes.plot(values, [n] * len(values), "|", color=panel.colour, ms=9, alpha=0.6)
            axes.plot([mean - std, mean + std], [n, n], color=panel.colour, linewidth=2.2)
        if values:
            marker = "D" if panel.colour == PAPER else "o"
            axes.plot(mean, n, marker, color=panel.colour, markersize=7.5)


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=11, pad=8)
    axes.tick_params(colors=INK, labelsize=9.5, length=0, which="both")
    axes.grid(axis="x", color="#DFE3E9", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    ends = _ends(panel.figures)
    if not ends:
        axes.set_xticks([])
        return
    low, high = min(ends), max(ends)
    if panel.span is not None:
        middle = (low + high) / 2
        axes.set_xlim(middle - panel.span / 2, middle + panel.span / 2)
    elif low > 0 and high / low >= 20:
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * 2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(min(0.0, 1.1 * low), 1.1 * high or 1.0)
        axes.locator_params(axis="x", nbins=4)  # numbers of six digits stay apart


def _legend(report: Report) -> str:
    lines = [f"Runs: {report.context}."]
    if report.plan:
        lines = [f"Paper: {report.plan.source}.", f"Ours: {report.context}."]
    if report.figures["std"].notna().any():
        lines.append("Dot and bar: mean ± sample standard deviation; strokes: single runs.")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 130))
