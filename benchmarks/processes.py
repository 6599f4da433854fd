"""Two processes of one thread against one process of two threads, and the price of the exchange.

Every process has its own minibatch of two images, so that two processes train on twice as many
images in a step. Runs: ``shapes`` is the default run's detector, data and optimiser; ``c4`` is a
ResNet-18 C4 detector on photographs' sizes with the papers' SGD. A step is forward, backward and
the optimiser's step on minibatches that are there: loading is not measured here. Each measurement
has fresh processes, started as the launcher of a training starts them; the two ways take turns.
The exchange of the gradients (DistributedDataParallel over gloo) is what a step takes longer than
one under ``no_sync``, in turn, in the same processes. That two processes learn what one learns from
both minibatches is a test: ``tests/training/test_two_processes.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from benchmarks.scenes import draw
from benchmarks.sides import Workload, build_model, scenes_of
from rcnn.app.config import parse, register_schema
from rcnn.app.processes import run_in_processes
from rcnn.app.run import build_data, build_module
from rcnn.interop import from_torchvision
from rcnn.model.build import Detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.structures import ImageBatch, Targets
from rcnn.training.optim import PaperSGD

REPOSITORY = Path(__file__).parents[1]
IMAGES, MINIBATCHES, WARM_UP = 2, 4, 2
"""Images of a minibatch, different minibatches of a process, steps that do not count."""

Minibatch = tuple[ImageBatch, Targets]


@dataclass(frozen=True)
class Way:
    """How the processors are used."""

    processes: int
    threads: int


@dataclass(frozen=True)
class Task:
    """What is trained, and how long.

    Attributes:
        run: "shapes" or "c4".
        size: (height, width) of the images of "c4".
        steps: that count, with the exchange, and as many without.
    """

    run: str
    size: tuple[int, int]
    steps: int


@dataclass(frozen=True)
class Times:
    """Median seconds of a step, with the gradients' exchange and without."""

    step: float
    unsynchronised: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--processes", type=int, default=2, help="or threads of one process")
    parser.add_argument("--runs", nargs="+", choices=["shapes", "c4"], default=["shapes", "c4"])
    parser.add_argument("--size", type=int, nargs=2, default=(600, 800), help="images of c4")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way")
    parser.add_argument("--steps", type=int, default=8, help="steps of a measurement")


def measure(arguments: argparse.Namespace) -> list[dict[str, str | int | float]]:
    """Train by both ways in turn; a ratio above 1 says that several processes are faster."""
    one, several = Way(1, arguments.processes), Way(arguments.processes, 1)
    rows: list[dict[str, str | int | float]] = []
    for run in arguments.runs:
        task = Task(run, tuple(arguments.size), arguments.steps)
        rounds: list[dict[Way, Times]] = []
        for number in range(arguments.rounds):
            turn = (one, several) if number % 2 == 0 else (several, one)
            rounds.append({way: time_way(task, way) for way in turn})
        ratios = [_speed(both[several], several) / _speed(both[one], one) for both in rounds]
        for way in (one, several):
            times = [both[way] for both in rounds]
            row: dict[str, str | int | float] = {
                "run": run,
                "processes": way.processes,
                "threads of each": way.threads,
                "images/s": statistics.median(_speed(each, way) for each in times),
                "step ms": 1000 * statistics.median(each.step for each in times),
            }
            if way == several:
                exchange = [each.step - each.unsynchronised for each in times]
                shares = [cost / each.step for cost, each in zip(exchange, times, strict=True)]
                row["exchange ms"] = 1000 * statistics.median(exchange)
                row["exchange %"] = 100 * statistics.median(shares)
                row["ratio"] = statistics.median(ratios)
            rows.append(row)
    return rows


def time_way(task: Task, way: Way) -> Times:
    """Start the processes of one measurement."""
    return run_in_processes(train, (task, way), way.processes)


def train(task: Task, way: Way) -> Times:
    """Take steps in this process, which may be one of several; all measure the slowest."""
    torch.set_num_threads(way.threads)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    build = _shapes if task.run == "shapes" else _c4
    detector, minibatches, optimizer = build(task, rank, way.processes)
    losses: nn.Module = _Losses(detector, torch.Generator().manual_seed(rank)).train()
    if way.processes > 1:
        losses = DistributedDataParallel(losses)
    turns = itertools.cycle(minibatches)
    for _ in range(WARM_UP):
        _step(losses, optimizer, next(turns), exchange=True)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(task.steps):
        minibatch = next(turns)
        for exchange in (True, False) if number % 2 == 0 else (False, True):
            seconds[exchange].append(_step(losses, optimizer, minibatch, exchange=exchange))
    distributed.destroy_process_group()
    return Times(statistics.median(seconds[True]), statistics.median(seconds[False]))


class _Losses(nn.Module):
    """The sum of a detector's losses as a forward pass, which is what is exchanged after."""

    def __init__(self, detector: Detector, generator: torch.Generator) -> None:
        super().__init__()
        self.detector = detector
        self.generator = generator

    def forward(self, batch: ImageBatch, targets: Targets) -> Tensor:
        return self.detector.losses(batch, targets, self.generator).total


def _step(
    losses: nn.Module, optimizer: Optimizer, minibatch: Minibatch, *, exchange: bool
) -> float:
    """Return the seconds of one step, from when all processes begin until all have ended."""
    distributed.barrier()
    start = time.perf_counter()
    alone = isinstance(losses, DistributedDataParallel) and not exchange
    with losses.no_sync() if alone else contextlib.nullcontext():
        losses(*minibatch).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    distributed.barrier()
    return time.perf_counter() - start


def _shapes(_: Task, rank: int, processes: int) -> tuple[Detector, list[Minibatch], Optimizer]:
    overrides = ["loader.workers=0", "run_dir=unused"]
    register_schema()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        composed = compose("config", overrides=overrides)
    config = parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    torch.manual_seed(0)
    data = build_data(config)
    module = build_module(config, data)
    data.images = module.settings.images
    loaded = itertools.islice(data.train_dataloader(), rank, None, processes)
    minibatches = [(each.images, each.targets) for each in itertools.islice(loaded, MINIBATCHES)]
    optimizer = module.recipe(module.detector, 600, IMAGES * processes).optimizer
    return module.detector, minibatches, optimizer


def _c4(task: Task, rank: int, processes: int) -> tuple[FasterRCNN, list[Minibatch], Optimizer]:
    load = Workload("resnet18", task.size, IMAGES)
    detector = from_torchvision(build_model(load, scenes_of(load), torch.device("cpu")))
    scenes = draw(load.size, load.objects, load.classes, IMAGES * MINIBATCHES, seed=1 + rank)
    minibatches = []
    for first in range(0, len(scenes), IMAGES):
        pair = scenes[first : first + IMAGES]
        batch = detector.images.batch([scene.pixels for scene in pair])
        minibatches.append((batch, Targets.pad([scene.ground_truth for scene in pair])))
    # The weights stay about what they are, so that proposals stay as many as they are.
    recipe = PaperSGD(lr=1e-6, milestones=())
    return detector, minibatches, recipe(detector, 1, IMAGES * processes).optimizer


def _speed(times: Times, way: Way) -> float:
    """Return images per second over all processes."""
    return IMAGES * way.processes / times.step
