"""Two computations in turn, so that what else the machine does meets both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks.runtime import Runtime
from benchmarks.sides import Side, Sides

Row = dict[str, str | int | float]

STEP, INFERENCE = "train step", "inference"


@dataclass(frozen=True)
class Plan:
    """How often is measured.

    Attributes:
        warm_up: runs of each side that do not count.
        pairs: measurements of each side.
        runs: of which a measurement is the mean. A GPU works in advance from one to the next.
    """

    warm_up: int
    pairs: int
    runs: int = 1


def plan_for(runtime: Runtime, pairs: int | None) -> Plan:
    """Return what a device needs.

    Args:
        runtime: of both sides.
        pairs: as many as the user wants; None: as are enough.
    """
    if runtime.device.type == "cpu":
        return Plan(warm_up=1, pairs=pairs or 6)
    return Plan(warm_up=10, pairs=pairs or 20, runs=5)


@dataclass(frozen=True)
class Times:
    """Milliseconds of both sides, pair by pair."""

    ours: list[float]
    theirs: list[float]

    def row(self) -> Row:
        """Return medians with quartiles; a ratio below 1 says that ours is faster."""
        ratios = [one / other for one, other in zip(self.ours, self.theirs, strict=True)]
        return {
            **_spread("rcnn ms", self.ours),
            **_spread("torchvision ms", self.theirs),
            **_spread("ratio", ratios),
        }


def interleave(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    runtime: Runtime,
    plan: Plan,
) -> Times:
    """Run both in turn: A B, B A, A B and so on.

    Args:
        ours: A.
        theirs: B.
        runtime: whose device is waited for, and whose clock is read.
        plan: how often.
    """
    for _ in range(plan.warm_up):
        ours()
        theirs()
    times = Times([], [])
    for pair in range(plan.pairs):
        order = [(ours, times.ours), (theirs, times.theirs)]
        for action, milliseconds in reversed(order) if pair % 2 else order:
            runtime.wait()
            start = runtime.seconds()
            for _ in range(plan.runs):
                action()
            runtime.wait()
            milliseconds.append(1000 * (runtime.seconds() - start) / plan.runs)
    return times


def time_tasks(sides: Sides, plan: Plan) -> Iterator[Row]:
    """Give the times of a train step and of inference, one row each."""
    for task in (STEP, INFERENCE):
        set_task(sides, task)
        runs = [side.step if task == STEP else side.detect for side in sides]
        yield {"task": task, **interleave(runs[0], runs[1], sides.ours.runtime, plan).row()}


def set_task(sides: Iterable[Side], task: str) -> None:
    """Switch detectors to training or to evaluation."""
    for side in sides:
        side.module.train(task == STEP)


def _spread(name: str, values: list[float]) -> Row:
    low, high = quartiles(values)
    return {name: statistics.median(values), f"{name} q1": low, f"{name} q3": high}


def quartiles(values: list[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
