"""Curves as pictures: precision over recall, cost over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from rcnn.view.colours import CLASS_COLOURS, HUES, INK, Colour, luminance

Numbers: TypeAlias = Sequence[float | int] | Tensor


def plot_curves(
    series: Mapping[str, tuple[Numbers, Numbers]], title: str, x_label: str, y_label: str
) -> UInt8[Tensor, "3 600 960"]:
    """Draw one line per series.

    Args:
        series: x and y values of each line, by its name in the legend. Values that are not finite
            interrupt the line.
        title: text above the axes.
        x_label: text below the axes.
        y_label: text left of the axes.

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

    ink = _hex(INK)
    # A name is text: a dollar sign in it begins no formula.
    with mpl.rc_context({"text.parse_math": False, "text.color": ink, "axes.labelcolor": ink}):
        # The object interface: pyplot keeps every figure of the process in a global list.
        figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white", layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        # Where the colours repeat, another dash pattern distinguishes the lines.
        patterns = ("-", "--", ":", "-.")
        lines = []
        for index, (name, (x, y)) in enumerate(series.items()):
            if len(x) != len(y):
                raise ValueError(f"series {name!r} has {len(x)} x values and {len(y)} y values")
            cycle, hue = divmod(index, HUES)
            lines += axes.plot(
                torch.as_tensor(x, dtype=torch.float64).tolist(),
                torch.as_tensor(y, dtype=torch.float64).tolist(),
                color=_hex(_line_colour(hue)),
                linestyle=patterns[cycle % len(patterns)],
                linewidth=2.2,
                marker="o" if len(x) == 1 else "",
            )
        axes.set_title(title, loc="left", fontsize=16, pad=14)
        axes.set_xlabel(x_label, fontsize=12, labelpad=8)
        axes.set_ylabel(y_label, fontsize=12, labelpad=8)
        axes.tick_params(colors=ink, labelsize=10.5, length=0)
        axes.grid(color="#E3E6EB", linewidth=0.9)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#B7BDC7")
        axes.margins(x=0.01)
        if lines:
            # Handed over as a list: a label of the line itself is dropped if it begins with "_".
            names = list(series)
            figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=11)
        canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(600, 960, 4)[..., :3].permute(2, 0, 1).contiguous()


def _line_colour(hue: int) -> Colour:
    """Return a class colour, in its darker tone where the first is too light for white paper."""
    colour = CLASS_COLOURS[hue]
    return CLASS_COLOURS[hue + HUES] if luminance(colour) > 0.5 else colour


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
