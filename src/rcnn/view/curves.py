"""Curves as pictures: precision over recall, cost over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from rcnn.view.colours import CLASS_COLOURS, HUES, INK, luminance

Numbers: TypeAlias = Sequence[float | int] | Tensor

_INK = "#{:02x}{:02x}{:02x}".format(*INK)
STYLE: dict[Any, object] = {
    "text.parse_math": False,  # a name is text: a dollar sign in it begins no formula
    "figure.constrained_layout.use": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 16,
    "axes.titlepad": 14,
    "axes.labelsize": 12,
    "axes.labelpad": 8,
    "axes.edgecolor": "#B7BDC7",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.01,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E6EB",
    "grid.linewidth": 0.9,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def plot_curves(
    series: Mapping[str, tuple[Numbers, Numbers]],
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> UInt8[Tensor, "3 600 960"]:
    """Draw one line per series.

    Args:
        series: x and y values of each line, by its name in the legend. Values that are not finite
            interrupt the line.
        title: text above the axes.
        x_label: text below the axes.
        y_label: text left of the axes.
        log_x: whether the x axis counts powers of ten.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a series has not as many x as y values.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "curves are drawn by matplotlib, which is not installed: pip install 'rcnn[plots]'"
        ) from error

    with mpl.rc_context(STYLE):
        # The object interface: pyplot keeps every figure of the process in a global list.
        figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white")
        canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
        lines = []
        for index, (x, y) in enumerate(series.values()):
            cycle, hue = divmod(index, HUES)
            # The darker tone where the first is too light for white paper.
            tone = hue + HUES if luminance(CLASS_COLOURS[hue]) > 0.5 else hue
            lines += axes.plot(
                *(torch.as_tensor(values, dtype=torch.float64) for values in (x, y)),
                color=[channel / 255 for channel in CLASS_COLOURS[tone]],
                # Where the colours repeat, another dash pattern distinguishes the lines.
                linestyle=("-", "--", ":", "-.")[cycle % 4],
                marker="o" if len(x) == 1 else "",
            )
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if lines:
            # Handed over as a list: a label of the line itself is dropped if it begins with "_".
            figure.legend(lines, list(series), loc="outside right upper")
        canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(600, 960, 4)[..., :3].permute(2, 0, 1).contiguous()
