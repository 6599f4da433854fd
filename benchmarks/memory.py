"""The most memory that a train step and inference take, on both sides.

Each figure is of a fresh process, in MiB: weights, gradients, the optimiser's state and all
features, without what Python and its imports take. On a GPU it is the most that PyTorch has
allocated; on a CPU the largest resident set, which Linux alone can measure from a chosen moment on.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.options import add_runtime, add_size, add_workloads, workloads
from benchmarks.pairs import INFERENCE, STEP, Row, set_task
from benchmarks.runtime import Runtime
from benchmarks.sides import Side, Workload, build_sides

RUNS = 2
"""Of each task: gradients and momenta are there from the second step on."""

MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workloads(parser)
    add_size(parser)
    add_runtime(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure every backbone in four processes."""
    runtime = Runtime.of(arguments)
    rows: list[Row] = []
    for load in workloads(arguments, arguments.size):
        for task in (STEP, INFERENCE):
            ours, theirs = (_in_a_process(load, runtime, place, task) for place in (0, 1))
            about = {**load.columns(), **runtime.columns(), "task": task}
            rows.append(
                {**about, "rcnn MiB": ours, "torchvision MiB": theirs, "ratio": ours / theirs}
            )
            print(
                f"{load.backbone}, norm {load.norm}, {task}: {ours:.0f}, {theirs:.0f} MiB",
                file=sys.stderr,
            )
    return rows


def peak(load: Workload, runtime: Runtime, place: int, task: str, threads: int) -> float:
    """Run one side in this process, and return the most memory that it took, in MiB.

    Args:
        load: what it does.
        runtime: how.
        place: 0 for our side, 1 for torchvision's.
        task: training or inference.
        threads: of the processor.
    """
    torch.set_num_threads(threads)
    before = 0 if _on_gpu(runtime) else _status("VmRSS")
    side = _only(load, runtime, place, task)
    gc.collect()
    if _on_gpu(runtime):
        torch.cuda.reset_peak_memory_stats(runtime.device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(RUNS):
        side.step() if task == STEP else side.detect()
    if _on_gpu(runtime):
        return torch.cuda.max_memory_allocated(runtime.device) / MIB
    return (_status("VmHWM") - before) / MIB


def _only(load: Workload, runtime: Runtime, place: int, task: str) -> Side:
    """Build both sides, and keep one."""
    sides = build_sides(load, runtime)
    set_task(sides, task)
    return sides[place]


def _in_a_process(load: Workload, runtime: Runtime, place: int, task: str) -> float:
    # A forked process would begin with the memory of this one.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(peak, load, runtime, place, task, torch.get_num_threads()).result()


def _on_gpu(runtime: Runtime) -> bool:
    return runtime.device.type == "cuda"


def _status(name: str) -> int:
    """Return a size of this process in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
