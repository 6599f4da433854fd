"""Our detector and torchvision's of the same architecture, weights, settings and images.

Letters: B images of a minibatch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN

from benchmarks.synthetic_images import SyntheticImage, draw
from benchmarks.torchvision_models import (
    c4_detector,
    has_norms,
    is_pyramid,
    pyramid_detector,
    set_realistic_weights,
)
from rcnn.interop import from_torchvision
from rcnn.model.backbones import TORCHVISION, BackboneSettings
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings, keep_freed_memory, prepare
from rcnn.model.transform import ImageSettings
from rcnn.structures import Targets

Norm: TypeAlias = Literal["batch", "frozen"]
Precision: TypeAlias = Literal["32", "bf16"]
Row: TypeAlias = dict[str, str | int | float]

MAIN = ["vgg16", "resnet18", "resnet50", "resnet50_fpn"]
"""The backbones that are compared unless others are named."""

STEP, INFERENCE = "train step", "inference"


@dataclass(frozen=True)
class Workload:
    """The work of both detectors.

    Attributes:
        backbone: name of a shipped backbone.
        size: (height, width) of the images, which are not resized.
        images: number of images of a minibatch.
        classes: K.
        objects: number of objects per image.
        before_nms: number of proposals that enter suppression, in training and at test; None: the
            paper's 12000 and 6000 for one feature map, torchvision's own for a pyramid.
        norm: ``batch``: norms use the minibatch in training, as in a network that starts from
            random weights; ``frozen``: they are fixed, as on top of ImageNet weights.
    """

    backbone: str
    size: tuple[int, int] = (600, 800)
    images: int = 2
    classes: int = 20
    objects: int = 6
    before_nms: int | None = None
    norm: Norm = "batch"

    def columns(self) -> Row:
        """Return the columns that identify the workload in a table."""
        height, width = self.size
        norm = self.norm if has_norms(self.backbone) else "none"
        size = f"{height}x{width}"
        return {"backbone": self.backbone, "norm": norm, "size": size, "images": self.images}


@dataclass(frozen=True)
class Runtime:
    """Device, precision and switches.

    Attributes:
        device: device of both detectors.
        precision: ``32``, or ``bf16`` for mixed precision.
        their_precision: precision of torchvision's detector; None: the same.
        speed: switches of our detector.
        both: torchvision's detector gets our memory format and compilation, too; otherwise it runs
            as its builders return it.
        clock: ``wall``, or ``cpu`` for the seconds of this process on all cores, which other
            processes disturb less.
    """

    device: torch.device
    precision: Precision = "32"
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    both: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    their_precision: Precision | None = None

    def columns(self) -> Row:
        """Return the switches as columns of a table."""
        formats = {True: "channels last", False: "contiguous"}
        shared = formats[self.speed.channels_last] + ", compiled" * self.speed.compile
        winograd = self.speed.winograd and self.device.type == "cpu" and self.precision == "32"
        ours = shared + ", Winograd" * winograd + ", norms folded" * self.speed.fold_norms
        theirs = shared if self.both else formats[False]
        if self.their_precision is not None:
            theirs += f", precision {self.their_precision}"
        return {
            "device": self.device.type,
            "precision": self.precision,
            "clock": self.clock,
            "rcnn runs": ours,
            "torchvision runs": theirs,
        }

    def apply(self, detector: FasterRCNN, model: TorchvisionRCNN) -> None:
        """Set the switches of both detectors; freed memory stays with the process for both."""
        keep_freed_memory()
        prepare(detector, self.speed)
        if self.both and self.speed.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.both and self.speed.compile:
            heads = model.roi_heads
            for part in (model.backbone, model.rpn.head, heads.box_head, heads.box_predictor):
                part.compile(dynamic=True)

    def synchronize(self) -> None:
        """Wait for the device before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self) -> float:
        """Read the clock."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()


@dataclass(frozen=True)
class Contestant:
    """One of the two detectors, ready to run.

    Attributes:
        name: ``rcnn`` or ``torchvision``.
        module: the detector.
        optimizer: SGD with the same settings for both.
        losses: returns the sum of the losses, from a list of images on.
        detections: returns the detections of the images.
        runtime: device and precision.
    """

    name: str
    module: nn.Module
    optimizer: Optimizer
    losses: Callable[[], Tensor]
    detections: Callable[[], Any]
    runtime: Runtime

    def run(self, task: str) -> None:
        """Run a training step or inference once; its phases carry labels for the profiler."""
        if task == INFERENCE:
            with torch.no_grad(), self._autocast():
                self.detections()
            return
        with record_function("optimizer"):
            self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.losses()
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.runtime.precision == "bf16"
        return torch.autocast(self.runtime.device.type, torch.bfloat16, enabled=enabled)


class Pair(NamedTuple):
    """Both detectors."""

    ours: Contestant
    theirs: Contestant


def build_model(
    load: Workload, images: list[SyntheticImage], device: torch.device
) -> TorchvisionRCNN:
    """Return torchvision's detector with random, realistic weights."""
    torch.manual_seed(0)
    if is_pyramid(load.backbone):
        model = pyramid_detector(load.backbone, load.size, load.classes).to(device)
    else:
        settings = DetectorSettings(
            class_names=tuple(f"class {index + 1}" for index in range(load.classes)),
            images=ImageSettings(min(load.size), max(load.size)),
            backbone=BackboneSettings(load.backbone, weights=None),
        )
        model = c4_detector(settings, load.images).to(device)
    if load.before_nms is not None:
        model.rpn._pre_nms_top_n = dict.fromkeys(("training", "testing"), load.before_nms)
    set_realistic_weights(model, pixels_of(images, device), targets_of(images, device))
    if load.norm == "frozen":
        freeze_norms(model)
    return model


def build_pair(load: Workload, runtime: Runtime) -> Pair:
    """Return both detectors; ours takes the weights of torchvision's."""
    images = images_for(load)
    model = build_model(load, images, runtime.device)
    detector = from_torchvision(model)
    runtime.apply(detector, model)
    return pair_up(model, detector, images, runtime)


def pair_up(
    model: TorchvisionRCNN, detector: FasterRCNN, images: list[SyntheticImage], runtime: Runtime
) -> Pair:
    """Return two given detectors as a pair."""
    pixels, targets = pixels_of(images, runtime.device), targets_of(images, runtime.device)
    ground_truths = [image.ground_truth.to(runtime.device) for image in images]
    generator = torch.Generator(runtime.device).manual_seed(0)

    def our_losses() -> Tensor:
        # Our loader stacks images in its workers, torchvision's detector does so itself. Here
        # both start from a list of images.
        batch = detector.transform.batch(pixels)
        return detector.losses(batch, Targets.pad(ground_truths), generator).total

    def their_losses() -> Tensor:
        return torch.stack(list(model(pixels, targets).values())).sum()

    theirs = replace(runtime, precision=runtime.their_precision or runtime.precision)
    ours = Contestant(
        "rcnn", detector, _sgd(detector), our_losses, lambda: detector.detect(pixels), runtime
    )
    return Pair(
        ours,
        Contestant("torchvision", model, _sgd(model), their_losses, lambda: model(pixels), theirs),
    )


def images_for(load: Workload) -> list[SyntheticImage]:
    """Draw the images of a minibatch."""
    return draw(load.size, load.objects, load.classes, load.images)


def pixels_of(images: list[SyntheticImage], device: torch.device) -> list[Tensor]:
    """Return the pixels on a device."""
    return [image.pixels.to(device) for image in images]


def targets_of(images: list[SyntheticImage], device: torch.device) -> list[dict[str, Tensor]]:
    """Return the objects in torchvision's form."""
    ground_truths = [image.ground_truth.to(device) for image in images]
    return [{"boxes": truth.boxes, "labels": truth.labels} for truth in ground_truths]


def set_task(contestants: Iterable[Contestant], task: str) -> None:
    """Switch detectors to training or to evaluation mode."""
    for contestant in contestants:
        contestant.module.train(task == STEP)


def interleave(
    actions: Mapping[str, Callable[[], object]], runtime: Runtime, rounds: int, runs: int = 1
) -> dict[str, list[float]]:
    """Return milliseconds of each action, measured in turn: A B, B A, A B and so on.

    Whatever else the machine does disturbs all actions alike. The first round is a warm-up and
    does not count.

    Args:
        actions: actions by name.
        runtime: device to wait for, and clock to read.
        rounds: number of measurements of each action.
        runs: number of runs whose mean is one measurement; a GPU works ahead from run to run.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(rounds + 1):
        names = list(actions)
        for name in reversed(names) if index % 2 else names:
            runtime.synchronize()
            start = runtime.seconds()
            for _ in range(runs):
                actions[name]()
            runtime.synchronize()
            if index > 0:
                times[name].append(1000 * (runtime.seconds() - start) / runs)
    return times


def time_tasks(pair: Pair, rounds: int) -> Iterator[Row]:
    """Time a training step and inference; the ratio is ours divided by torchvision's."""
    runs = 1 if pair.ours.runtime.device.type == "cpu" else 5
    for task in (STEP, INFERENCE):
        set_task(pair, task)
        actions = {one.name: partial(one.run, task) for one in pair}
        times = interleave(actions, pair.ours.runtime, rounds, runs)
        ratios = [a / b for a, b in zip(times["rcnn"], times["torchvision"], strict=True)]
        row: Row = {"task": task}
        for name, values in times.items():
            row |= spread(f"{name} ms", values)
        yield row | spread("ratio", ratios)


def spread(name: str, values: list[float]) -> Row:
    """Return median and quartiles as columns."""
    first, third = values[0], values[-1]
    if len(values) > 1:
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return {name: statistics.median(values), f"{name} q1": first, f"{name} q3": third}


def parse_size(text: str) -> tuple[int, int]:
    """Read a size such as ``600x800``.

    Raises:
        argparse.ArgumentTypeError: the text is no size.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write height x width, as 600x800")
    return int(height), int(width)


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``workloads`` reads."""
    known = ", ".join(TORCHVISION)
    parser.add_argument(
        "--backbones", nargs="+", choices=TORCHVISION, default=MAIN, metavar="NAME", help=known
    )
    parser.add_argument(
        "--norms",
        nargs="+",
        choices=get_args(Norm),
        default=["batch"],
        help="batch: norms use the minibatch; frozen: fixed norms, as on top of loaded weights",
    )
    parser.add_argument("--images", type=int, default=2, help="images of a minibatch")
    parser.add_argument("--size", type=parse_size, default=(600, 800), metavar="HEIGHTxWIDTH")


def workloads(arguments: argparse.Namespace) -> Iterator[Workload]:
    """Yield the workloads of a command line; a backbone without norms comes once."""
    for backbone in arguments.backbones:
        norms: list[Norm] = arguments.norms if has_norms(backbone) else ["batch"]
        for norm in norms:
            yield Workload(backbone, arguments.size, arguments.images, norm=norm)


def add_runtime_options(parser: argparse.ArgumentParser, *, compiles: bool = True) -> None:
    """Add the options that ``runtime_from`` reads.

    Args:
        parser: parser that gets the options.
        compiles: offer ``--compile``.
    """
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="of both")
    for name in ("channels-last", "winograd", "fold-norms"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True)
    parser.set_defaults(compile=False)
    if compiles:
        parser.add_argument("--compile", action="store_true", help="compile our detector")
    parser.add_argument(
        "--both", action="store_true", help="memory format and compilation for torchvision's, too"
    )
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: own seconds")


def runtime_from(arguments: argparse.Namespace) -> Runtime:
    """Return the runtime of a command line."""
    speed = SpeedSettings(
        channels_last=arguments.channels_last,
        winograd=arguments.winograd,
        fold_norms=arguments.fold_norms,
        compile=arguments.compile,
    )
    return Runtime(arguments.device, arguments.precision, speed, arguments.both, arguments.clock)


def _sgd(module: nn.Module) -> Optimizer:
    # A tiny rate keeps the weights, and with them the number of proposals, about what they are.
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)
