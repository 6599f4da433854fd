"""How the cost of a train step and of inference grows, on both sides.

One quantity at a time is changed: the size of the images, the proposals that enter suppression,
the objects in an image, the classes, the images of a minibatch. The others stay at 600 x 800
pixels, 12000 proposals (6000 at test), 6 objects, 20 classes, 2 images. A picture beside the JSON
file shows all curves.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.growth_picture import save
from benchmarks.options import add_pairs, add_runtime, add_size
from benchmarks.pairs import Row, plan_for, time_tasks
from benchmarks.runtime import Runtime
from benchmarks.sides import Workload, build_sides
from rcnn.model.backbones import SHIPPED

AXES: Mapping[str, tuple[str, Sequence[Any]]] = {
    "size": ("shorter side, pixels", [(240, 320), (360, 480), (480, 640), (600, 800), (720, 960)]),
    "before_nms": ("proposals before suppression", [1000, 3000, 6000, 12000]),
    "objects": ("objects in an image", [1, 10, 100, 300]),
    "classes": ("classes", [1, 20, 80, 200]),
    "images": ("images of a minibatch", [1, 2, 4, 8]),
}
"""Fields of a workload, how people call them, and their values."""

PAIRS = 3
"""Measurements of each side at a point, unless the command line asks for others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--backbone", choices=SHIPPED, default="resnet18", metavar="NAME")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS")
    parser.add_argument("--values", type=int, help="only the first so many of each axis")
    add_size(parser)
    add_pairs(parser)
    add_runtime(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time both sides along every axis, and draw the picture."""
    runtime = Runtime.of(arguments)
    base = Workload(arguments.backbone, arguments.size)
    plan = plan_for(runtime, arguments.pairs or PAIRS)
    rows: list[Row] = []
    for axis in arguments.axes:
        name, values = AXES[axis]
        for value in values[: arguments.values]:
            load = dataclasses.replace(base, **{axis: value})
            shown = min(value) if axis == "size" else value
            about = {"backbone": load.backbone, **runtime.columns(), "pairs": plan.pairs}
            about |= {"axis": name, "value": shown}
            rows += [about | row for row in time_tasks(build_sides(load, runtime), plan)]
            print(f"{name}: {shown}", file=sys.stderr)
    save(rows, arguments.out.with_suffix(".png"), f"{base.backbone}, {runtime.device.type}")
    return rows
