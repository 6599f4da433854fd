"""The two target-assignment layers: which anchors and which RoIs are learned from, and what.

Letters: B images, A anchors, S sampled anchors, G ground-truth boxes, N candidates, R RoIs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.boxes import inside
from rcnn.ops.deltas import encode
from rcnn.ops.matching import best_match, gather_boxes, masked_iou, near_best
from rcnn.ops.sampling import Sample, sample_balanced
from rcnn.settings import require
from rcnn.structures import AnchorSamples, ImageBatch, Proposals, RoISamples, Targets


@dataclass(frozen=True)
class AnchorSampling:
    """Which anchors the RPN learns from (Faster R-CNN, sections 3.1.2 and 3.1.3).

    Attributes:
        positive_iou: an anchor is positive from this IoU with any ground-truth box on.
        negative_iou: it is negative below this IoU with all of them.
        best_within: the best anchors of each ground-truth box are positive whatever their IoU,
            and so are those whose IoU is less than this below the best.
        inside_only: leave out anchors that cross the border of the image.
        samples: anchors per image.
        positive_fraction: the largest share of positives among them.
    """

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    best_within: float = 0.0
    inside_only: bool = True
    samples: int = 256
    positive_fraction: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.positive_iou <= 1, "positive_iou", self.positive_iou, "it lies in 0..1")
        require(
            0 <= self.negative_iou <= self.positive_iou,
            "negative_iou",
            self.negative_iou,
            f"it lies in 0..positive_iou={self.positive_iou}",
        )
        require(0 <= self.best_within < 1, "best_within", self.best_within, "it lies in 0..1")
        require(self.samples >= 1, "samples", self.samples, "it is 1 or more")
        _require_fraction("positive_fraction", self.positive_fraction)


@dataclass(frozen=True)
class RoISampling:
    """Which RoIs the box head learns from (Fast R-CNN, section 2.3).

    Attributes:
        rois: the number of RoIs.
        per: ``minibatch``: that many over all images of a minibatch, an equal share each (two
            images and 128 RoIs are 64 each); ``image``: that many from every image.
        foreground_fraction: the largest share of foreground.
        foreground_iou: a RoI is foreground from this IoU with a ground-truth box on.
        background_low: it is background from this IoU on (0.1 in Fast R-CNN, 0 in Faster R-CNN;
            an image without objects has background only, whatever the window) ...
        background_high: ... and below this one.
        append_truth: add the ground-truth boxes to the proposals.
        fill: ``repeat`` background if there is too little of it, or leave the sample ``short``.
    """

    rois: int = 128
    per: Literal["minibatch", "image"] = "minibatch"
    foreground_fraction: float = 0.25
    foreground_iou: float = 0.5
    background_low: float = 0.0
    background_high: float = 0.5
    append_truth: bool = True
    fill: Literal["short", "repeat"] = "short"

    def __post_init__(self) -> None:
        require(self.rois >= 1, "rois", self.rois, "it is 1 or more")
        _require_fraction("foreground_fraction", self.foreground_fraction)
        iou, low, high = self.foreground_iou, self.background_low, self.background_high
        require(0 < iou <= 1, "foreground_iou", iou, "it lies in 0..1, above 0")
        require(0 < high <= iou, "background_high", high, f"it lies in 0..foreground_iou={iou}")
        require(0 <= low < high, "background_low", low, f"it lies in 0..background_high={high}")


def sample_anchors(
    anchors: Float[Tensor, "A 4"],
    targets: Targets,
    batch: ImageBatch,
    settings: AnchorSampling,
    generator: torch.Generator | None = None,
) -> AnchorSamples:
    """Label every anchor, draw a balanced sample of each image, and encode its boxes.

    An anchor that lies in a crowd region is ignored, as is one between the two thresholds.
    """
    usable = torch.ones(len(batch.sizes), len(anchors), dtype=torch.bool, device=anchors.device)
    if settings.inside_only:
        usable = inside(anchors, batch.sizes)
    ious = masked_iou(targets.boxes, targets.learned, anchors[None]) * usable[:, None, :]
    match = best_match(ious, targets.boxes, targets.crowd, anchors[None])

    # The best anchors of a box are positive even below the threshold, ties included.
    positive = (match.ious >= settings.positive_iou) | near_best(ious, settings.best_within)
    negative = (match.ious < settings.negative_iou) & ~positive & ~match.in_crowd
    sample = sample_balanced(
        positive & usable,
        negative & usable,
        settings.samples,
        settings.positive_fraction,
        generator=generator,
    )
    labels = sample.positive.long() - (~sample.positive & ~sample.negative).long()
    matched = gather_boxes(targets.boxes, match.indices.gather(1, sample.indices))
    return AnchorSamples(sample.indices, labels, encode(anchors[sample.indices], matched))


def sample_rois(
    proposals: Proposals,
    targets: Targets,
    settings: RoISampling,
    delta_mean: Float[Tensor, "C 4"],
    delta_std: Float[Tensor, "C 4"],
    generator: torch.Generator | None = None,
) -> RoISamples:
    """Draw the RoIs of each image from its proposals, with class labels and box targets.

    Args:
        proposals: candidates.
        targets: ground truth.
        settings: how many, and which.
        delta_mean: by which the box targets are normalised, for background and each class.
        delta_std: likewise.
        generator: the source of randomness.
    """
    boxes, valid = proposals.boxes, proposals.valid
    if settings.append_truth:
        boxes = torch.cat([boxes, targets.boxes], dim=1)
        valid = torch.cat([valid, targets.learned], dim=1)
    if boxes.shape[1] == 0:  # stored proposals may be none at all: one place that is never drawn
        boxes, valid = boxes.new_zeros(len(boxes), 1, 4), valid.new_zeros(len(boxes), 1)
    places = settings.rois
    if settings.per == "minibatch":
        places = max(settings.rois // len(boxes), 1)

    ious = masked_iou(targets.boxes, targets.learned, boxes.detach())
    match = best_match(ious, targets.boxes, targets.crowd, boxes.detach())
    foreground = match.ious >= settings.foreground_iou
    low = torch.where(targets.learned.any(dim=1, keepdim=True), settings.background_low, 0.0)
    background = (match.ious >= low) & (match.ious < settings.background_high) & ~match.in_crowd
    sample = sample_balanced(
        foreground & valid,
        background & valid,
        places,
        settings.foreground_fraction,
        repeat=settings.fill == "repeat",
        generator=generator,
    )
    # Places beyond the number of candidates would stay empty and cost as much as others.
    if settings.fill == "short":
        sample = Sample(*(part[:, : boxes.shape[1]] for part in sample))
    # An empty place holds a copy of a drawn RoI: it has no loss, but batch norms in the tail count
    # what goes through them.
    used = sample.positive | sample.negative
    place = torch.arange(used.shape[1], device=boxes.device)
    filled = sample.indices.gather(1, place % used.sum(dim=1, keepdim=True).clamp(min=1))
    rois = boxes.gather(1, filled[:, :, None].expand(-1, -1, 4))
    owner = match.indices.gather(1, sample.indices)
    matched = gather_boxes(targets.boxes, owner)
    classes = (
        targets.labels.gather(1, owner) if targets.labels.shape[1] else torch.zeros_like(owner)
    )
    labels = torch.where(sample.positive, classes, 0)
    deltas = (encode(rois, matched) - delta_mean[labels]) / delta_std[labels]
    return RoISamples(
        boxes=rois,
        labels=torch.where(used, labels, -1),
        deltas=deltas,
        matched_boxes=matched,
    )


def _require_fraction(key: str, value: float) -> None:
    require(0 <= value <= 1, key, value, "it lies in 0..1")
