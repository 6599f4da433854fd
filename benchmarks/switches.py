"""What each switch of ``speed`` saves: our detector with all of them on, and with one off.

The variants take turns, with the same weights and images, in one process. The ratio compares the
runs of one round, all switches on divided by one off: below 1 the switch pays. ``fold_norms`` is
measured with fixed norms, as it has no effect on others. Keeping freed memory holds for the whole
process, and so for all rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from functools import partial

from benchmarks.pair import (
    INFERENCE,
    STEP,
    Contestant,
    Row,
    Runtime,
    Workload,
    add_runtime_options,
    add_workload_options,
    build_model,
    images_for,
    interleave,
    pair_up,
    runtime_from,
    set_task,
    workloads,
)
from rcnn.interop import from_torchvision
from rcnn.model.speed import SpeedSettings
from rcnn.settings import from_plain, to_plain

ALL_ON = "nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workload_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each variant")
    add_runtime_options(parser, compiles=False)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every backbone with all switches and without each."""
    runtime = runtime_from(arguments)
    rows: list[Row] = []
    for load in workloads(arguments):
        variants = build_variants(load, runtime)
        for task in (STEP, INFERENCE):
            set_task(variants.values(), task)
            actions = {name: partial(one.run, task) for name, one in variants.items()}
            times = interleave(actions, runtime, arguments.rounds)
            for name, values in times.items():
                ratios = [on / off for on, off in zip(times[ALL_ON], values, strict=True)]
                rows.append(
                    {
                        **load.columns(),
                        **runtime.columns(),
                        "task": task,
                        "off": name,
                        "ms": statistics.median(values),
                        "on / off": statistics.median(ratios),
                        "lowest": min(ratios),
                        "highest": max(ratios),
                    }
                )
                print(f"{load.backbone} {task}, off: {name}: {ratios}", file=sys.stderr)
    return rows


def build_variants(load: Workload, runtime: Runtime) -> dict[str, Contestant]:
    """Return our detector as ``runtime`` has it, and without each of its switches."""
    images = images_for(load)
    model = build_model(load, images, runtime.device)
    switches = ["channels_last", "winograd", *(["fold_norms"] if load.norm == "frozen" else [])]
    on = to_plain(runtime.speed)
    speeds = {ALL_ON: runtime.speed} | {
        name: from_plain(SpeedSettings, on | {name: False}) for name in switches if on[name]
    }
    variants = {}
    for name, speed in speeds.items():
        variant, detector = replace(runtime, speed=speed), from_torchvision(model)
        variant.apply(detector, model)
        variants[name] = pair_up(model, detector, images, variant).ours
    return variants
