"""Where the time of a train step and of inference goes, stage by stage, on both sides.

A stage is charged with its own time; what runs inside it is charged to the inner one. The last two
rows come from PyTorch's profiler: the overhead, which is all that is neither convolution nor linear
layer, in percent of the whole; and, as a part of it, the norms, activations and pooling of the
backbone.

On a GPU every switch from stage to stage waits for the device, so that the sum is longer than an
undisturbed step.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.charging import BACKWARD, OPTIMISER, REST, STAGES, charged, parts_of
from benchmarks.kinds import shares_of
from benchmarks.options import add_runtime, add_size, add_workloads, workloads
from benchmarks.pairs import INFERENCE, STEP, Row, set_task
from benchmarks.runtime import Runtime
from benchmarks.sides import Side, Sides, build_sides
from rcnn.training.stopwatch import Stopwatch

Seconds = dict[str, float]
"""Of each stage that a run came to."""

Switch = Callable[[str], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workloads(parser)
    add_size(parser)
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    add_runtime(parser, compiles=False)  # stages are not to be seen in compiled code


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Break down every backbone."""
    runtime = Runtime.of(arguments)
    rows: list[Row] = []
    for load in workloads(arguments, arguments.size):
        sides = build_sides(load, runtime)
        for task in (STEP, INFERENCE):
            set_task(sides, task)
            about = {**load.columns(), **runtime.columns(), "task": task}
            rows += [{**about, **row} for row in _break_down(sides, task, arguments.repeats)]
    return rows


def seconds_of(side: Side, task: str) -> Seconds:
    """Run one side once, and return what each stage took."""
    watch = Stopwatch(REST, side.runtime.device, side.runtime.seconds)
    with charged(parts_of(side.module), watch):
        RUNS[task](side, watch.switch)
    return watch.seconds


def _break_down(sides: Sides, task: str, repeats: int) -> Iterator[Row]:
    """Run both sides in turn, and give a row for each stage."""
    runs: dict[str, list[Seconds]] = defaultdict(list)
    for number in range(repeats + 1):
        for side in sides:
            seconds = seconds_of(side, task)
            if number:  # the first one warms up
                runs[side.name].append(seconds)
    medians = {
        name: {
            stage: 1000 * statistics.median(seconds.get(stage, 0.0) for seconds in measured)
            for stage in STAGES
        }
        for name, measured in runs.items()
    }
    totals = {name: sum(stages.values()) for name, stages in medians.items()}
    for stage in STAGES:
        if any(stages[stage] for stages in medians.values()):
            yield _row(stage, {name: stages[stage] for name, stages in medians.items()}, totals)
    yield _row("all", totals, totals)

    shares = {
        side.name: shares_of(partial(RUNS[task], side, _unwatched), side.runtime, repeats)
        for side in sides
    }
    overhead = {name: totals[name] * (1 - found.matrices) for name, found in shares.items()}
    yield _row("overhead", overhead, totals)
    layers = {name: totals[name] * found.layers for name, found in shares.items()}
    yield _row("norms, activations", layers, totals)


def _step(side: Side, switch: Switch) -> None:
    switch(OPTIMISER)
    side.optimizer.zero_grad(set_to_none=True)
    switch(REST)
    loss = side.loss()
    switch(BACKWARD)
    loss.backward()
    switch(OPTIMISER)
    side.optimizer.step()
    switch(REST)


def _detect(side: Side, switch: Switch) -> None:
    side.detect()
    switch(REST)


RUNS: dict[str, Callable[[Side, Switch], None]] = {STEP: _step, INFERENCE: _detect}
"""Of one side, by the task; a run says to the stopwatch which stage comes next."""


def _unwatched(stage: str) -> str:
    return stage


def _row(stage: str, milliseconds: Seconds, totals: Seconds) -> Row:
    row: Row = {"stage": stage}
    row |= {f"{name} ms": value for name, value in milliseconds.items()}
    row |= {f"{name} %": 100 * value / totals[name] for name, value in milliseconds.items()}
    return row
