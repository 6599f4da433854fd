"""Curves as pictures: precision over recall, cost over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from rcnn.view.palette import CLASS_COLOURS, HUES, INK, Colour, luminance

Numbers: TypeAlias = Sequence[float | int] | Tensor


def plot_curves(
    series: Mapping[str, tuple[Numbers, Numbers]], title: str, x_label: str, y_label: str
) -> UInt8[Tensor, "3 600 960"]:
    """Draw one line per series.

    Args:
        series: x and y values of each line, by its name in the legend. Values that are not finite
            interrupt the line.
        title: above the axes.
        x_label: below the axes.
        y_label: left of the axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a series has not as many x as y values.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "curves are drawn by matplotlib, which is not installed: pip install 'rcnn[plots]'"
        ) from error

    # The object interface: no pyplot, which keeps every figure of the process in a global list.
    figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Where the colours come again, another dash pattern tells the lines apart.
    patterns = ("-", "--", ":", "-.")
    lines = []
    for index, (name, (x, y)) in enumerate(series.items()):
        if len(x) != len(y):
            raise ValueError(f"series {name!r} has {len(x)} x values and {len(y)} y values")
        cycle, place = divmod(index, HUES)
        lines += axes.plot(
            _floats(x),
            _floats(y),
            color=_unit(_line_colour(place)),
            linestyle=patterns[cycle % len(patterns)],
            linewidth=2.2,
            marker="o" if len(x) == 1 else "",
        )
    ink = _unit(INK)
    axes.set_title(title, loc="left", fontsize=16, color=ink, pad=14)
    axes.set_xlabel(x_label, fontsize=12, color=ink, labelpad=8)
    axes.set_ylabel(y_label, fontsize=12, color=ink, labelpad=8)
    axes.tick_params(colors=ink, labelsize=10.5, length=0)
    axes.grid(color="#E3E6EB", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#B7BDC7")
    axes.margins(x=0.01)
    if lines:
        # Handed over by hand: a label of the line itself is dropped if it begins with "_".
        figure.legend(
            lines,
            list(series),
            loc="outside right upper",
            frameon=False,
            fontsize=11,
            labelcolor=ink,
        )
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(600, 960, 4)[..., :3].permute(2, 0, 1).contiguous()


def _floats(numbers: Numbers) -> list[float]:
    values: list[float] = torch.as_tensor(numbers, dtype=torch.float64).tolist()
    return values


def _line_colour(place: int) -> Colour:
    """The hue at ``place``, in its darker tone where the first is too light for white paper."""
    colour = CLASS_COLOURS[place]
    return CLASS_COLOURS[place + HUES] if luminance(colour) > 0.5 else colour


def _unit(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = (channel / 255 for channel in colour)
    return red, green, blue
