"""Whether both detectors have the same proposals, detections and losses; only then they are timed.

The comparison runs in double precision: rounding hardly ever carries a pair of boxes across the
threshold of suppression there, and many layers of random weights do not amplify it.

Letters: N and M boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN

from benchmarks.pair import pixels_of, targets_of
from benchmarks.synthetic_images import SyntheticImage
from rcnn.interop import from_torchvision
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.roi_heads import eval_mode
from rcnn.model.speed import SpeedSettings, prepare
from rcnn.model.transform import ImageTransform
from rcnn.structures import Losses, Targets

Module = TypeVar("Module", bound=nn.Module)

PIXELS, SCORE, SHARE, LOSS = 1e-3, 1e-5, 0.99, 2e-3
"""Allowed differences of a box and a score; required fraction of equal boxes; largest relative
difference of a loss."""

EVERYTHING, FEW = 1_000_000, 100
"""A number of samples that includes all anchors and RoIs, and a small number of proposals."""

TERMS = {
    "rpn_objectness": "loss_objectness",
    "rpn_boxes": "loss_rpn_box_reg",
    "roi_classes": "loss_classifier",
    "roi_boxes": "loss_box_reg",
}
"""Our names of the losses, and torchvision's."""


class DisagreementError(Exception):
    """The detectors differ, so that their times cannot be compared."""


@torch.no_grad()
def check(
    model: TorchvisionRCNN,
    detector: FasterRCNN,
    images: Sequence[SyntheticImage],
    speed: SpeedSettings,
) -> float:
    """Compare proposals, detections and losses.

    Args:
        model: torchvision's detector.
        detector: our detector with the same weights, as it will be timed.
        images: images that both see.
        speed: switches of our detector.

    Returns:
        The smallest fraction of boxes of one detector that the other has, too.

    Raises:
        DisagreementError: the detectors differ; the message names the part.
    """
    found = {
        "proposals of a training step": _proposals(model, detector, images),
        "detections": _detections(model, detector, images),
    }
    differences = _losses(model, images, replace(speed, compile=False))
    for name, share in found.items():
        if share < SHARE:
            raise DisagreementError(
                f"Only {share:.1%} of the {name} are the same in both; {SHARE:.0%} are required."
            )
    for name, difference in differences.items():
        if not difference <= LOSS:
            raise DisagreementError(
                f"The loss {name} differs by {difference:.2g} of itself, {LOSS:g} is allowed."
            )
    return min(found.values())


def _proposals(
    model: TorchvisionRCNN, detector: FasterRCNN, images: Sequence[SyntheticImage]
) -> float:
    device = detector.transform.mean.device
    pixels = _in_double(images, device)
    with _double(model), _double(detector), eval_mode(model), eval_mode(detector):
        pictures, targets = model.transform(pixels, targets_of(list(images), device))
        levels = model.backbone(pictures.tensors)
        levels = {"0": levels} if isinstance(levels, Tensor) else levels
        model.rpn.training = True  # the limits of training
        theirs = model.rpn(pictures, levels, targets)[0]
        batch = detector.transform.batch(pixels)
        output = detector.rpn(detector.extract_features(batch), batch)
        ours = detector.rpn.propose(output, batch, train=True)
    return min(
        _shared(_near(ours.boxes[i, ours.valid[i]], boxes)) for i, boxes in enumerate(theirs)
    )


def _detections(
    model: TorchvisionRCNN, detector: FasterRCNN, images: Sequence[SyntheticImage]
) -> float:
    pixels = _in_double(images, detector.transform.mean.device)
    with _double(model), _double(detector), eval_mode(model), eval_mode(detector):
        theirs, ours = model(pixels), detector.detect(pixels)
    return min(
        _shared(
            _near(one.boxes, other["boxes"])
            & (one.labels[:, None] == other["labels"])
            & ((one.scores[:, None] - other["scores"]).abs() < SCORE)
        )
        for one, other in zip(ours, theirs, strict=True)
    )


def _losses(
    model: TorchvisionRCNN, images: Sequence[SyntheticImage], speed: SpeedSettings
) -> dict[str, float]:
    """Compare the losses of all anchors and of all of a few proposals: nothing is sampled."""
    device = next(model.parameters()).device
    pixels = _in_double(images, device)
    # If an image has fewer RoIs than another one, ours fills the batch with copies, which would
    # enter the statistics of the norms in the box head: they are in evaluation mode.
    with _sampling_all(model), eval_mode(model):
        detector = from_torchvision(model)
        prepare(detector, speed)
        batch = detector.transform.batch(pixels)
        ground_truths = Targets.pad([image.ground_truth.to(device) for image in images])
        with _double(model), _double(detector):
            ours: Losses = _but_norms(detector).losses(batch, ground_truths)
            theirs = _but_norms(model)(pixels, targets_of(list(images), device))
    return {
        name: ((ours.named[name] - theirs[other]).abs() / theirs[other].abs()).item()
        for name, other in TERMS.items()
    }


def _but_norms(module: Module) -> Module:
    """Switch all parts of a detector to training except its batch norms."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return module


@contextmanager
def _sampling_all(model: TorchvisionRCNN) -> Iterator[None]:
    samplers = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    samples, limit = [one.batch_size_per_image for one in samplers], model.rpn._post_nms_top_n
    for sampler in samplers:
        sampler.batch_size_per_image = EVERYTHING
    model.rpn._post_nms_top_n = {**limit, "training": FEW}
    yield
    for sampler, count in zip(samplers, samples, strict=True):
        sampler.batch_size_per_image = count
    model.rpn._post_nms_top_n = limit


@contextmanager
def _double(module: nn.Module) -> Iterator[None]:
    module.double()
    for part in module.modules():
        if isinstance(part, ImageTransform):  # its constants had been rounded, theirs are not
            part.mean.copy_(torch.tensor(part.settings.mean, dtype=torch.float64))
            part.std.copy_(torch.tensor(part.settings.std, dtype=torch.float64))
    try:
        yield
    finally:
        module.float()


def _in_double(images: Sequence[SyntheticImage], device: torch.device) -> list[Tensor]:
    return [image.double() for image in pixels_of(list(images), device)]


def _near(ours: Tensor, theirs: Tensor) -> Bool[Tensor, "N M"]:
    return (ours[:, None] - theirs).abs().amax(dim=2) < PIXELS


def _shared(same: Bool[Tensor, "N M"]) -> float:
    """Return the share of boxes that have a counterpart, on the side where fewer have one."""
    if same.numel() == 0:  # nothing was found on at least one side
        return 0.0
    shares = same.any(dim=0).float().mean(), same.any(dim=1).float().mean()
    return float(min(shares))
