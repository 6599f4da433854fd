"""A training step and inference of our detector and of torchvision's, in turn.

A training step is the forward pass from a list of images on, the backward pass, and SGD's step.
Both detectors have the same weights, limits, thresholds and images, and are timed only if their
proposals, detections and losses are the same. A ratio below 1 means that ours is faster.

One feature map (C4): 12000 -> 2000 proposals in training, 6000 -> 300 at test, 128 RoIs a
minibatch, 9 anchors a cell. Feature pyramids: torchvision's own limits.

``--gpu`` measures three settings on a CUDA device: float32 (goal: a ratio of at most 0.67), bf16
(0.67), and bf16 with compiled parts against torchvision's float32 (0.33).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch

from benchmarks.agreement import DisagreementError, check
from benchmarks.pair import (
    Row,
    Runtime,
    Workload,
    add_runtime_options,
    add_workload_options,
    build_model,
    images_for,
    pair_up,
    runtime_from,
    time_tasks,
    workloads,
)
from rcnn.interop import from_torchvision
from rcnn.model.speed import SpeedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workload_options(parser)
    parser.add_argument("--pairs", type=int, default=6, help="measurements of each detector")
    parser.add_argument("--gpu", action="store_true", help="the three settings on a CUDA device")
    add_runtime_options(parser)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every backbone.

    Raises:
        DisagreementError: the two detectors of a backbone differ.
        SystemExit: ``--gpu`` without a CUDA device.
    """
    runtimes = [runtime_from(arguments)]
    if arguments.gpu:
        if not torch.cuda.is_available():
            sys.exit("--gpu needs a CUDA device, and PyTorch finds none.")
        runtimes = gpu_runtimes(torch.device("cuda"))
    return [
        row
        for load in workloads(arguments)
        for runtime in runtimes
        for row in time_pair(load, runtime, arguments.pairs)
    ]


def gpu_runtimes(device: torch.device) -> list[Runtime]:
    """Return the three settings of ``--gpu``."""
    single = Runtime(device)
    half = replace(single, precision="bf16")
    compiled = replace(half, speed=SpeedSettings(compile=True), their_precision="32")
    return [single, half, compiled]


def time_pair(load: Workload, runtime: Runtime, pairs: int) -> list[Row]:
    """Compare what both detectors compute, then time them.

    Raises:
        DisagreementError: the detectors differ.
    """
    images = images_for(load)
    model = build_model(load, images, runtime.device)
    detector = from_torchvision(model)
    runtime.apply(detector, model)
    try:
        same = check(model, detector, images, runtime.speed)
    except DisagreementError as error:
        raise DisagreementError(f"{load.backbone} (norm {load.norm}): {error}") from error
    about: Row = {
        **load.columns(),
        "same boxes %": 100 * same,
        **runtime.columns(),
        "pairs": pairs,
    }
    rows: list[Row] = []
    for row in time_tasks(pair_up(model, detector, images, runtime), pairs):
        rows.append(about | row)
        print(
            f"{load.backbone} (norm {load.norm}) {row['task']}: rcnn {row['rcnn ms']:.0f} ms, "
            f"torchvision {row['torchvision ms']:.0f} ms, ratio {row['ratio']:.3f}",
            file=sys.stderr,
        )
    return rows
