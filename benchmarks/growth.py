"""How the cost of a training step and of inference grows, for both detectors.

One quantity at a time varies: the size of the images, the proposals that enter suppression, the
objects per image, the classes, the images of a minibatch. The others stay at 600 x 800 pixels,
12000 proposals (6000 at test), 6 objects, 20 classes, 2 images. ``growth.png`` beside the JSON file
shows all curves.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pair import (
    Row,
    Workload,
    add_runtime_options,
    build_pair,
    parse_size,
    runtime_from,
    time_tasks,
)
from rcnn.files import whole_file
from rcnn.model.backbones import TORCHVISION

AXES: Mapping[str, tuple[str, Sequence[Any]]] = {
    "size": ("shorter side, pixels", [(240, 320), (360, 480), (480, 640), (600, 800), (720, 960)]),
    "before_nms": ("proposals before suppression", [1000, 3000, 6000, 12000]),
    "objects": ("objects per image", [1, 10, 100, 300]),
    "classes": ("classes", [1, 20, 80, 200]),
    "images": ("images of a minibatch", [1, 2, 4, 8]),
}
"""Fields of a workload, their names in the picture, and their values."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--backbone", choices=TORCHVISION, default="resnet18", metavar="NAME")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS")
    parser.add_argument("--values", type=int, help="number of values of each axis, from the first")
    parser.add_argument("--size", type=parse_size, default=(600, 800), metavar="HEIGHTxWIDTH")
    parser.add_argument("--pairs", type=int, default=3, help="measurements at each value")
    add_runtime_options(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time both detectors along every axis, and draw the picture."""
    runtime = runtime_from(arguments)
    base = Workload(arguments.backbone, arguments.size)
    rows: list[Row] = []
    for axis in arguments.axes:
        name, values = AXES[axis]
        for value in values[: arguments.values]:
            load = dataclasses.replace(base, **{axis: value})
            about: Row = {
                "backbone": load.backbone,
                **runtime.columns(),
                "pairs": arguments.pairs,
                "axis": name,
                "value": min(value) if axis == "size" else value,
            }
            rows += [about | row for row in time_tasks(build_pair(load, runtime), arguments.pairs)]
            print(f"{name}: {about['value']}", file=sys.stderr)
    save_picture(rows, arguments.out.with_suffix(".png"), base.backbone)
    return rows


def save_picture(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw a panel for each axis and task: medians of both detectors, quartiles as bars.

    Args:
        rows: rows of ``measure``.
        path: path of the PNG file.
        title: title of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(str(row["axis"]) for row in rows))
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    # The object interface: pyplot would keep every figure of the process in a global list.
    figure = Figure((3 * len(axes) + 1, 2.7 * len(tasks) + 0.8), dpi=150, layout="constrained")
    panels = figure.subplots(len(tasks), len(axes), squeeze=False)
    for line, task in enumerate(tasks):
        for column, axis in enumerate(axes):
            panel = panels[line, column]
            chosen = [row for row in rows if row["task"] == task and row["axis"] == axis]
            values = [float(row["value"]) for row in chosen]
            for side, marker in (("rcnn", "o"), ("torchvision", "D")):
                middle, low, high = (
                    [float(row[f"{side} ms{suffix}"]) for row in chosen]
                    for suffix in ("", " q1", " q3")
                )
                bars = [
                    [m - q for m, q in zip(middle, low, strict=True)],
                    [q - m for m, q in zip(middle, high, strict=True)],
                ]
                panel.errorbar(values, middle, yerr=bars, marker=marker, markersize=5, label=side)
            panel.set_ylim(bottom=0)
            panel.set_xlim(left=0)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            if line == len(tasks) - 1:
                panel.set_xlabel(axis)
        panels[line, 0].set_ylabel(f"{task}, ms")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    with whole_file(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))
