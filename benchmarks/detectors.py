"""A train step and inference of our detector and of torchvision's, in turn.

A step is the forward pass from a list of images on, the backward pass, and the step of SGD.
Both sides have the same weights, limits, thresholds and images, and are timed only where they find
and learn the same. A ratio below 1 says that ours is faster.

One feature map (C4): 12000 -> 2000 proposals in training, 6000 -> 300 at test, 128 RoIs a
minibatch, 9 anchors a cell. Feature pyramids: torchvision's own limits.

The goals on a GPU: python -m benchmarks gpu
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.agreement import DisagreementError, check
from benchmarks.options import add_pairs, add_runtime, add_workloads, parse_size, workloads
from benchmarks.pairs import Row, plan_for, time_tasks
from benchmarks.runtime import Runtime
from benchmarks.sides import Workload, build_model, pair, scenes_of
from rcnn.interop import from_torchvision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workloads(parser)
    parser.add_argument(
        "--sizes", nargs="+", type=parse_size, default=[(600, 800)], metavar="HEIGHTxWIDTH"
    )
    add_pairs(parser)
    add_runtime(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every backbone at every size.

    Raises:
        DisagreementError: both sides of one do not find or learn the same.
    """
    runtime = Runtime.of(arguments)
    rows: list[Row] = []
    for size in arguments.sizes:
        for load in workloads(arguments, size):
            rows += time_sides(load, runtime, arguments.pairs)
    return rows


def time_sides(load: Workload, runtime: Runtime, pairs: int | None) -> list[Row]:
    """Compare what both sides find and learn, then time them.

    Raises:
        DisagreementError: they differ.
    """
    scenes = scenes_of(load)
    model = build_model(load, scenes, runtime.device)
    detector = from_torchvision(model)
    runtime.settle(detector, model)
    try:
        same = check(model, detector, scenes, runtime.speed)
    except DisagreementError as error:
        raise DisagreementError(f"{_named(load.columns())}: {error}") from error
    plan = plan_for(runtime, pairs)
    about: Row = {
        **load.columns(),
        "same boxes %": 100 * same,
        **runtime.columns(),
        "pairs": plan.pairs,
    }
    rows = []
    for row in time_tasks(pair(model, detector, scenes, runtime), plan):
        rows.append({**about, **row})
        print(_line(rows[-1]), file=sys.stderr)
    return rows


def _line(row: Row) -> str:
    """Say how far the part has come."""
    return (
        f"{_named(row)} {row['task']}: rcnn {row['rcnn ms']:.0f} ms, "
        f"torchvision {row['torchvision ms']:.0f} ms, ratio {row['ratio']:.3f}"
    )


def _named(row: Row) -> str:
    return f"{row['backbone']} (norm {row['norm']}) at {row['size']}"
