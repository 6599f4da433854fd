"""Peak memory of a training step and of inference, for both detectors.

Each figure comes from a fresh process, in MiB: weights, gradients, the optimiser's state and all
features, without Python and its imports. On a GPU it is PyTorch's peak allocation; on a CPU the
largest resident set, which only Linux can reset at a chosen moment.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.machine import in_a_process, reset_peak, resident
from benchmarks.pair import (
    INFERENCE,
    STEP,
    Contestant,
    Row,
    Runtime,
    Workload,
    add_runtime_options,
    add_workload_options,
    build_pair,
    runtime_from,
    set_task,
    workloads,
)

RUNS = 2
"""Number of runs; gradients and momenta exist from the second step on."""

MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workload_options(parser)
    add_runtime_options(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure every backbone in four processes."""
    runtime = runtime_from(arguments)
    rows: list[Row] = []
    for load in workloads(arguments):
        for task in (STEP, INFERENCE):
            ours, theirs = (in_a_process(peak, load, runtime, index, task) for index in (0, 1))
            about = {**load.columns(), **runtime.columns(), "task": task}
            rows.append(
                {**about, "rcnn MiB": ours, "torchvision MiB": theirs, "ratio": ours / theirs}
            )
            print(
                f"{load.backbone}, norm {load.norm}, {task}: {ours:.0f}, {theirs:.0f} MiB",
                file=sys.stderr,
            )
    return rows


def peak(load: Workload, runtime: Runtime, index: int, task: str) -> float:
    """Run one detector in this process, and return its peak memory in MiB.

    Args:
        load: workload.
        runtime: device and switches.
        index: 0 for our detector, 1 for torchvision's.
        task: training step or inference.
    """
    gpu = runtime.device.type == "cuda"
    before = 0.0 if gpu else resident()
    pair = build_pair(load, runtime)
    set_task(pair, task)
    contestant: Contestant = pair[index]
    del pair  # the other detector is freed
    reset_peak()
    if gpu:
        torch.cuda.reset_peak_memory_stats(runtime.device)
    for _ in range(RUNS):
        contestant.run(task)
    if gpu:
        return torch.cuda.max_memory_allocated(runtime.device) / MIB
    return (resident("peak") - before) / MIB
