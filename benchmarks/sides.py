"""Our detector and torchvision's of the same architecture, weights, settings and inputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN

from benchmarks.lifelike import enliven
from benchmarks.peers import c4_detector, has_norms, is_pyramid, pyramid_detector
from benchmarks.runtime import Runtime
from benchmarks.scenes import Scene, draw
from rcnn.interop import from_torchvision
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.structures import Targets
from rcnn.training.optim import PaperSGD

Norm: TypeAlias = Literal["batch", "frozen"]


@dataclass(frozen=True)
class Workload:
    """What both sides do.

    Attributes:
        backbone: a shipped one.
        size: (height, width) of the images, which is also what they are resized to.
        images: of a minibatch.
        classes: K.
        objects: in an image.
        before_nms: proposals that enter suppression, in training and at test; None: the paper's
            12000 and 6000 for one feature map, torchvision's own for a pyramid.
        norm: "batch" counts the statistics of the minibatch in training, as in a network that
            starts from random weights; "frozen" has fixed ones, as on top of ImageNet's.
    """

    backbone: str
    size: tuple[int, int] = (600, 800)
    images: int = 2
    classes: int = 20
    objects: int = 6
    before_nms: int | None = None
    norm: Norm = "batch"

    def columns(self) -> dict[str, str | int | float]:
        """Return what tells rows apart."""
        height, width = self.size
        size = f"{height}x{width}"
        norm = self.norm if has_norms(self.backbone) else "none"
        return {"backbone": self.backbone, "norm": norm, "size": size, "images": self.images}


@dataclass(frozen=True)
class Side:
    """One of the two detectors, ready to run.

    Attributes:
        name: "rcnn" or "torchvision".
        module: the detector.
        optimizer: of the same class and settings on both sides.
        losses: gives the sum that is differentiated, from the images on.
        detections: gives what is found in the images.
        runtime: how it runs.
    """

    name: str
    module: nn.Module
    optimizer: Optimizer
    losses: Callable[[], Tensor]
    detections: Callable[[], Any]
    runtime: Runtime

    def step(self) -> None:
        """Forward, backward, and the optimiser's step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        """Run the forward pass of a training step."""
        with self.autocast():
            return self.losses()

    @torch.no_grad()
    def detect(self) -> Any:
        """Detect in the images."""
        with self.autocast():
            return self.detections()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return mixed precision, or full precision."""
        return torch.autocast(
            self.runtime.device.type, torch.bfloat16, enabled=self.runtime.precision == "bf16"
        )


class Sides(NamedTuple):
    """Both detectors."""

    ours: Side
    theirs: Side


def build_model(load: Workload, scenes: list[Scene], device: torch.device) -> TorchvisionRCNN:
    """Return torchvision's detector, from random weights that let it find many things."""
    torch.manual_seed(0)
    model = _assemble(load).to(device)
    if load.before_nms is not None:
        model.rpn._pre_nms_top_n = dict.fromkeys(("training", "testing"), load.before_nms)
    enliven(model, images_of(scenes, device), targets_of(scenes, device))
    if load.norm == "frozen":
        freeze_norms(model)
    return model


def build_sides(load: Workload, runtime: Runtime) -> Sides:
    """Return both sides; torchvision's comes first into being, ours takes its weights over."""
    scenes = scenes_of(load)
    model = build_model(load, scenes, runtime.device)
    detector = from_torchvision(model)
    runtime.settle(detector, model)
    return pair(model, detector, scenes, runtime)


def pair(
    model: TorchvisionRCNN, detector: FasterRCNN, scenes: list[Scene], runtime: Runtime
) -> Sides:
    """Return both sides of two detectors, which run as they are."""
    images = images_of(scenes, runtime.device)
    targets = targets_of(scenes, runtime.device)
    ground_truths = [scene.ground_truth.to(runtime.device) for scene in scenes]
    generator = torch.Generator(runtime.device).manual_seed(0)

    def our_losses() -> Tensor:
        # Our loader stacks images in its workers; torchvision's detector does so itself. Here both
        # start from a list of images.
        batch = detector.images.batch(images)
        return detector.losses(batch, Targets.pad(ground_truths), generator).total

    def their_losses() -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    recipe = PaperSGD(lr=1e-6, milestones=())  # the weights stay about what they are
    steps, count = 1, len(scenes)
    return Sides(
        Side(
            "rcnn",
            detector,
            recipe(detector, steps, count).optimizer,
            our_losses,
            lambda: detector.detect(images),
            runtime,
        ),
        Side(
            "torchvision",
            model,
            recipe(model, steps, count).optimizer,
            their_losses,
            lambda: model(images),
            runtime.theirs,
        ),
    )


def scenes_of(load: Workload) -> list[Scene]:
    """Draw the images of a minibatch."""
    return draw(load.size, load.objects, load.classes, load.images)


def images_of(scenes: list[Scene], device: torch.device) -> list[Tensor]:
    """Return the pictures, as both sides take them."""
    return [scene.pixels.to(device) for scene in scenes]


def targets_of(scenes: list[Scene], device: torch.device) -> list[dict[str, Tensor]]:
    """Return the objects, as torchvision takes them."""
    ground_truths = [scene.ground_truth.to(device) for scene in scenes]
    return [{"boxes": ground_truth.boxes, "labels": ground_truth.labels} for ground_truth in ground_truths]


def _assemble(load: Workload) -> TorchvisionRCNN:
    if is_pyramid(load.backbone):
        return pyramid_detector(load.backbone, load.size, load.classes)
    settings = DetectorSettings(
        class_names=tuple(f"class {number + 1}" for number in range(load.classes)),
        images=ImageSettings(min(load.size), max(load.size)),
        backbone=BackboneSettings(load.backbone, weights=None),
        anchors=AnchorSettings(),
    )
    return c4_detector(settings, load.images)
