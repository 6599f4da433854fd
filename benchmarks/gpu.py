"""The goals on a GPU, in one command: the ``detectors`` part at three settings of precision.

1. float32 on both sides: a ratio of times of 0.67 or less, which is 1.5 times the images a second.
2. bf16 on both sides: likewise.
3. bf16 with compiled parts against torchvision's float32: a ratio of 0.33 or less, 3 times as many.

Everything else is as in ``detectors``. Needs a GPU with bf16, and Triton for the third setting.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch

from benchmarks.detectors import time_sides
from benchmarks.options import add_pairs, add_size, add_workloads, workloads
from benchmarks.pairs import Row
from benchmarks.runtime import Runtime
from rcnn.model.speed import SpeedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add_workloads(parser)
    add_size(parser)
    add_pairs(parser)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Time every backbone at each setting.

    Raises:
        DisagreementError: both sides of one do not find or learn the same.
        SystemExit: there is no GPU.
    """
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here, and this part measures one.")
    rows: list[Row] = []
    for load in workloads(arguments, arguments.size):
        for runtime in settings_of(arguments.device):
            rows += time_sides(load, runtime, arguments.pairs)
    return rows


def settings_of(device: torch.device) -> list[Runtime]:
    """Return the three settings."""
    single = Runtime(device)
    half = replace(single, precision="bf16")
    compiled = replace(half, speed=SpeedSettings(compile=True), their_precision="32")
    return [single, half, compiled]
