"""Two processes of one thread against one process of two threads, and the cost of the exchange.

Every process has its own minibatch of two images, so that two processes train on twice as many
images in a step. ``shapes`` has the detector, the data and the optimiser of the default run; ``c4``
is a ResNet-18 C4 detector on images of 600 x 800 pixels with the papers' SGD. A step is forward,
backward and the optimiser's step on minibatches in memory: loading is not measured here. Each
measurement has fresh processes, started as a training starts them, one process and several in turn.
"exchange ms" is the time that a step needs more than one under ``no_sync`` in the same processes,
for the gradients that DistributedDataParallel exchanges over gloo.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from benchmarks.pair import Row, Workload, build_model, images_for, parse_size
from benchmarks.quality import compose_config
from benchmarks.synthetic_images import draw
from rcnn.app.build import build_data, build_module
from rcnn.app.processes import run_in_processes
from rcnn.interop import from_torchvision
from rcnn.model.build import Detector
from rcnn.structures import ImageBatch, Targets
from rcnn.training.optim import PaperSGD

IMAGES, MINIBATCHES, WARM_UP = 2, 4, 2
"""Number of images of a minibatch, of minibatches of a process, and of steps before the clock."""

Minibatch = tuple[ImageBatch, Targets]


class Times(NamedTuple):
    """Median seconds of a step with the exchange of gradients, and without."""

    step: float
    unsynchronised: float


class DetectorLosses(nn.Module):
    """The sum of a detector's losses as a forward pass, which DistributedDataParallel wraps.

    Args:
        detector: detector to train.
        generator: source of the sampling.
    """

    def __init__(self, detector: Detector, generator: torch.Generator) -> None:
        super().__init__()
        self.detector = detector
        self.generator = generator

    def forward(self, batch: ImageBatch, targets: Targets) -> Tensor:
        """Return the sum of the losses."""
        return self.detector.losses(batch, targets, self.generator).total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--processes", type=int, default=2, help="or threads of one process")
    parser.add_argument("--runs", nargs="+", choices=["shapes", "c4"], default=["shapes", "c4"])
    parser.add_argument("--size", type=parse_size, default=(600, 800), help="images of c4")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--steps", type=int, default=8, help="steps of a measurement")


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Train in one process and in several; a ratio above 1 means that several are faster."""
    rows: list[Row] = []
    for run in arguments.runs:
        times: dict[int, list[Times]] = {1: [], arguments.processes: []}
        for index in range(arguments.rounds):
            counts = list(times)
            for count in reversed(counts) if index % 2 else counts:
                work = (run, arguments.size, arguments.steps, arguments.processes // count)
                times[count].append(run_in_processes(train, work, count))
        for count, measured in times.items():
            row: Row = {"run": run, "processes": count}
            row["threads of each"] = arguments.processes // count
            row["images/s"] = median(IMAGES * count / each.step for each in measured)
            row["step ms"] = 1000 * median(each.step for each in measured)
            if count > 1:
                exchange = [each.step - each.unsynchronised for each in measured]
                shares = [cost / each.step for cost, each in zip(exchange, measured, strict=True)]
                row["exchange ms"] = 1000 * median(exchange)
                row["exchange %"] = 100 * median(shares)
                pairs = zip(times[1], measured, strict=True)
                row["ratio"] = median(count * one.step / several.step for one, several in pairs)
            rows.append(row)
    return rows


def train(run: str, size: tuple[int, int], steps: int, threads: int) -> Times:
    """Time steps in this process, which is one of those that ``run_in_processes`` started.

    Args:
        run: ``shapes`` or ``c4``.
        size: (height, width) of the images of ``c4``.
        steps: number of steps with the exchange, and of those without.
        threads: number of threads of this process.
    """
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    if run == "shapes":
        detector, minibatches, optimizer = _shapes(rank, processes)
    else:
        detector, minibatches, optimizer = _c4(size, rank, processes)
    losses: nn.Module = DetectorLosses(detector, torch.Generator().manual_seed(rank)).train()
    if processes > 1:
        losses = DistributedDataParallel(losses)
    endless = itertools.cycle(minibatches)
    for _ in range(WARM_UP):
        _step(losses, optimizer, next(endless), exchange=True)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for index in range(steps):
        minibatch = next(endless)
        for exchange in (True, False) if index % 2 == 0 else (False, True):
            seconds[exchange].append(_step(losses, optimizer, minibatch, exchange=exchange))
    distributed.destroy_process_group()
    return Times(median(seconds[True]), median(seconds[False]))


def _step(
    losses: nn.Module, optimizer: Optimizer, minibatch: Minibatch, *, exchange: bool
) -> float:
    """Return the seconds from the moment that all processes begin until all have ended."""
    distributed.barrier()
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if isinstance(losses, DistributedDataParallel) and not exchange:
            stack.enter_context(losses.no_sync())
        losses(*minibatch).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    distributed.barrier()
    return time.perf_counter() - start


def _shapes(rank: int, processes: int) -> tuple[Detector, list[Minibatch], Optimizer]:
    config = compose_config("loader.workers=0")
    torch.manual_seed(0)
    data = build_data(config)
    module = build_module(config, data)
    data.images = module.settings.images
    batches = itertools.islice(data.train_dataloader(), rank, MINIBATCHES * processes, processes)
    minibatches = [(batch.images, batch.targets) for batch in batches]
    optimizer = module.recipe(module.detector, 600, IMAGES * processes).optimizer
    return module.detector, minibatches, optimizer


def _c4(
    size: tuple[int, int], rank: int, processes: int
) -> tuple[Detector, list[Minibatch], Optimizer]:
    load = Workload("resnet18", size, IMAGES)
    detector = from_torchvision(build_model(load, images_for(load), torch.device("cpu")))
    images = draw(size, load.objects, load.classes, IMAGES * MINIBATCHES, seed=1 + rank)
    minibatches = []
    for first in range(0, len(images), IMAGES):
        chosen = images[first : first + IMAGES]
        batch = detector.transform.batch([image.pixels for image in chosen])
        minibatches.append((batch, Targets.pad([image.ground_truth for image in chosen])))
    # A tiny rate keeps the weights, and with them the number of proposals, about what they are.
    recipe = PaperSGD(lr=1e-6, milestones=())
    return detector, minibatches, recipe(detector, 1, IMAGES * processes).optimizer
