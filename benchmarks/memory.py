"""Peak memory of a training step and of inference, for both detectors.

Each figure comes from a fresh process, in MiB: weights, gradients, the optimiser's state and all
features, without Python and its imports. On a GPU it is PyTorch's peak allocation; on a CPU the
largest resident set, which only Linux can reset at a chosen moment.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

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
            ours, theirs = (_in_a_process(load, runtime, index, task) for index in (0, 1))
            about = {**load.columns(), **runtime.columns(), "task": task}
            rows.append(
                {**about, "rcnn MiB": ours, "torchvision MiB": theirs, "ratio": ours / theirs}
            )
            print(
                f"{load.backbone}, norm {load.norm}, {task}: {ours:.0f}, {theirs:.0f} MiB",
                file=sys.stderr,
            )
    return rows


def peak(load: Workload, runtime: Runtime, index: int, task: str, threads: int) -> float:
    """Run one detector in this process, and return its peak memory in MiB.

    Args:
        load: workload.
        runtime: device and switches.
        index: 0 for our detector, 1 for torchvision's.
        task: training step or inference.
        threads: number of CPU threads.
    """
    torch.set_num_threads(threads)
    before = 0 if _on_gpu(runtime) else _status("VmRSS")
    pair = build_pair(load, runtime)
    set_task(pair, task)
    contestant: Contestant = pair[index]
    del pair  # the other detector is freed
    gc.collect()
    if _on_gpu(runtime):
        torch.cuda.reset_peak_memory_stats(runtime.device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(RUNS):
        contestant.run(task)
    if _on_gpu(runtime):
        return torch.cuda.max_memory_allocated(runtime.device) / MIB
    return (_status("VmHWM") - before) / MIB


def _in_a_process(load: Workload, runtime: Runtime, index: int, task: str) -> float:
    # A forked process would begin with the memory of this one.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(peak, load, runtime, index, task, torch.get_num_threads()).result()


def _on_gpu(runtime: Runtime) -> bool:
    return runtime.device.type == "cuda"


def _status(name: str) -> int:
    """Return a size of this process in bytes, read from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
