"""What each switch of ``speed`` is worth: our detector as it is, and with one switch off, in turn.

All have the same weights and images, in one process. The ratio compares the runs of one round, with
the switch on over with it off: below 1 it is worth its while. The stages are medians of the same
runs. ``fold_norms`` is measured where norms are fixed, as it does nothing elsewhere. Keeping freed
memory holds for a whole process, and so for all rows here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmarks.charging import STAGES
from benchmarks.options import add_runtime, add_size, add_workloads, workloads
from benchmarks.pairs import INFERENCE, STEP, Row, set_task
from benchmarks.runtime import Runtime
from benchmarks.sides import Side, Workload, build_model, pair, scenes_of
from benchmarks.stages import Seconds, seconds_of
from rcnn.interop import from_torchvision

NOTHING = "nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workloads(parser)
    add_size(parser)
    parser.add_argument("--rounds", type=int, default=5, help="of which the medians count")
    add_runtime(parser, compiles=False)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every backbone with all switches and without each."""
    runtime = Runtime.of(arguments)
    rows: list[Row] = []
    for load in workloads(arguments, arguments.size):
        sides = build_variants(load, runtime)
        for task in (STEP, INFERENCE):
            about = {**load.columns(), **runtime.columns(), "task": task}
            for row in compare(sides, task, arguments.rounds):
                rows.append({**about, **row})
                print(_line(rows[-1]), file=sys.stderr)
    return rows


def build_variants(load: Workload, runtime: Runtime) -> dict[str, Side]:
    """Return our detector as ``runtime`` has it, and without each switch that it has on."""
    scenes = scenes_of(load)
    model = build_model(load, scenes, runtime.device)
    switches = ("channels_last", "winograd", *(["fold_norms"] * (load.norm == "frozen")))
    speeds = {NOTHING: runtime.speed} | {
        name: replace(runtime.speed, **{name: False})
        for name in switches
        if getattr(runtime.speed, name)
    }
    sides = {}
    for name, speed in speeds.items():
        variant, detector = replace(runtime, speed=speed), from_torchvision(model)
        variant.settle(detector, model)
        sides[name] = pair(model, detector, scenes, variant).ours
    return sides


def compare(sides: Mapping[str, Side], task: str, rounds: int) -> Iterator[Row]:
    """Run all variants in turn, the other way round every second time, and give a row for each."""
    runs: dict[str, list[Seconds]] = defaultdict(list)
    set_task(sides.values(), task)
    for number in range(rounds + 1):
        for name in reversed(sides) if number % 2 else sides:
            seconds = seconds_of(sides[name], task)
            if number:  # the first one warms up
                runs[name].append(seconds)
    totals = {name: [sum(run.values()) for run in runs[name]] for name in sides}
    for name in sides:
        ratios = [on / off for on, off in zip(totals[NOTHING], totals[name], strict=True)]
        stages = {
            f"{stage} ms": 1000 * statistics.median(run.get(stage, 0.0) for run in runs[name])
            for stage in STAGES
        }
        yield {
            "off": name,
            "ms": 1000 * statistics.median(totals[name]),
            "on / off": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            **{stage: value for stage, value in stages.items() if value},
        }


def _line(row: Row) -> str:
    """Say how far the part has come."""
    return (
        f"{row['backbone']} (norm {row['norm']}) {row['task']}, off: {row['off']}: "
        f"{row['ms']:.0f} ms, on / off {row['on / off']:.3f}"
    )
