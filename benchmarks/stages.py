"""Where the time of a training step and of inference goes, stage by stage and by kind of operation.

One run under torch's profiler serves both questions. Every operation is charged to the innermost
stage around it: our detector labels its stages itself (``record_function``), torchvision's gets
labels around its functions. The milliseconds are the stage's share of an undisturbed run. The last
rows are the overhead, all operations that belong neither to a convolution nor to a linear layer,
and the part of it that norms, activations and the backbone's pooling take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN
from torchvision.models.detection import roi_heads

from benchmarks.pair import (
    INFERENCE,
    STEP,
    Contestant,
    Row,
    add_runtime_options,
    add_workload_options,
    build_pair,
    runtime_from,
    set_task,
    workloads,
)

STAGES = (
    *("transform", "backbone", "rpn head", "anchor targets", "proposals", "roi targets"),
    *("roi pooling", "box head", "losses", "detections", "backward", "optimizer", "rest"),
)
"""Stages in the order of the data flow; ``rest`` is everything without a label."""

SUMS = ("all", "overhead", "norms, activations")
"""Rows that sum up operations of all stages."""

MATRIX_OPERATIONS = frozenset(
    f"aten::{name}"
    for name in (
        *("mkldnn_convolution", "cudnn_convolution", "convolution_backward", "_convolution"),
        *("_slow_conv2d_forward", "_conv_depthwise2d", "thnn_conv2d", "convolution"),
        *("addmm", "mm", "linear", "mkldnn_linear", "_addmm_activation"),
    )
) | {"_Winograd", "_WinogradBackward"}
"""Convolutions and linear layers, forward and backward, with all that they call."""

LAYER_OPERATIONS = frozenset(
    f"aten::{name}"
    for name in (
        *("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit"),
        *("cudnn_batch_norm", "cudnn_batch_norm_backward", "_batch_norm_impl_index"),
        *("batch_norm_backward", "_batch_norm_with_update", "batch_norm_elementwise"),
        *("relu_", "clamp_min_", "clamp_min", "relu", "threshold_backward"),
        *("max_pool2d_with_indices", "max_pool2d_with_indices_backward"),
        *("hardswish", "hardswish_", "hardswish_backward"),
        *("hardsigmoid", "hardsigmoid_", "hardsigmoid_backward"),
    )
)
"""The other layers of the backbones: norms, activations, pooling."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workload_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="profiled runs, for the medians")
    add_runtime_options(parser, compiles=False)  # compiled code hides its stages


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Break down every backbone."""
    runtime = runtime_from(arguments)
    rows: list[Row] = []
    for load in workloads(arguments):
        pair = build_pair(load, runtime)
        for task in (STEP, INFERENCE):
            set_task(pair, task)
            times = {one.name: break_down(one, task, arguments.repeats) for one in pair}
            for stage in (*STAGES, *SUMS):
                row: Row = {**load.columns(), **runtime.columns(), "task": task, "stage": stage}
                for name, stages in times.items():
                    row |= {
                        f"{name} ms": stages[stage],
                        f"{name} %": 100 * stages[stage] / stages["all"],
                    }
                if any(stages[stage] for stages in times.values()):
                    rows.append(row)
    return rows


def break_down(contestant: Contestant, task: str, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each stage, of all, of the overhead and of the layers."""
    runs: list[dict[str, float]] = []
    with ExitStack() as stack:
        if isinstance(contestant.module, TorchvisionRCNN):
            stack.enter_context(labelled(contestant.module))
        contestant.run(task)  # warm-up
        for _ in range(repeats):
            contestant.runtime.synchronize()
            start = time.perf_counter()
            contestant.run(task)
            contestant.runtime.synchronize()
            milliseconds = 1000 * (time.perf_counter() - start)
            shares = profiled_shares(contestant, task)
            runs.append({name: share * milliseconds for name, share in shares.items()})
    return {name: statistics.median(run[name] for run in runs) for name in (*STAGES, *SUMS)}


def profiled_shares(contestant: Contestant, task: str) -> dict[str, float]:
    """Return the share of one profiled run that each stage and each kind of operation takes."""
    gpu = contestant.runtime.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as profiler:
        contestant.run(task)
        contestant.runtime.synchronize()
    spent = dict.fromkeys((*STAGES, *SUMS), 0.0)
    for event in profiler.events():
        if event.device_type != DeviceType.CPU:
            continue  # kernels of a GPU are counted with the operations that started them
        seconds = event.self_device_time_total if gpu else event.self_cpu_time_total
        around = [event, *_callers(event)]
        stage = next((one.name for one in around if one.name in STAGES), "rest")
        spent[stage] += seconds
        spent["all"] += seconds
        if not any(one.name in MATRIX_OPERATIONS for one in around):
            spent["overhead"] += seconds
            if any(one.name in LAYER_OPERATIONS for one in around):
                spent["norms, activations"] += seconds
    return {name: seconds / spent["all"] for name, seconds in spent.items()}


@contextmanager
def labelled(model: TorchvisionRCNN) -> Iterator[None]:
    """Put our labels around the functions of torchvision's detector."""
    rpn, heads = model.rpn, model.roi_heads
    functions: list[tuple[Any, str, str]] = [
        (model.transform, "forward", "transform"),
        (model.transform, "postprocess", "detections"),
        (model.backbone, "forward", "backbone"),
        (rpn, "forward", "proposals"),
        (rpn.head, "forward", "rpn head"),
        (rpn, "assign_targets_to_anchors", "anchor targets"),
        (rpn.box_coder, "encode", "anchor targets"),
        (rpn, "compute_loss", "losses"),
        (heads, "select_training_samples", "roi targets"),
        (heads.box_roi_pool, "forward", "roi pooling"),
        (heads.box_head, "forward", "box head"),
        (heads.box_predictor, "forward", "box head"),
        (roi_heads, "fastrcnn_loss", "losses"),
        (heads, "postprocess_detections", "detections"),
    ]
    with ExitStack() as stack:
        for owner, name, label in functions:
            function, is_own = getattr(owner, name), name in vars(owner)
            setattr(owner, name, record_function(label)(function))
            restore = (setattr, owner, name, function) if is_own else (delattr, owner, name)
            stack.callback(*restore)
        yield


def _callers(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """Yield the operations and labels around an event, the innermost first."""
    parent = event.cpu_parent
    while parent is not None:
        yield parent
        parent = parent.cpu_parent
