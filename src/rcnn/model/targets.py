"""The two target-assignment layers: which anchors and which RoIs are learned from, and what.

Letters: B images, A anchors, S sampled anchors, G ground-truth boxes, N candidates, R RoIs, C sets
of deltas.
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
from rcnn.ops.sampling import Sample, sample_balanced, take_rois
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
        mining: ``random``: RoIs are drawn; ``hard``: those with the largest loss are kept, and of
            RoIs that overlap by more than 0.7 only the hardest (OHEM: Shrivastava et al. 2016).
            There is then no share of foreground, nothing to fill, and background starts at IoU 0,
            whatever these keys say.
        candidates: ``hard`` computes the loss of the ground truth and of at most so many proposals
            of an image, the best.
    """

    rois: int = 128
    per: Literal["minibatch", "image"] = "minibatch"
    foreground_fraction: float = 0.25
    foreground_iou: float = 0.5
    background_low: float = 0.0
    background_high: float = 0.5
    append_truth: bool = True
    fill: Literal["short", "repeat"] = "short"
    mining: Literal["random", "hard"] = "random"
    candidates: int = 2000

    def __post_init__(self) -> None:
        require(self.rois >= 1, "rois", self.rois, "it is 1 or more")
        require(self.candidates >= 1, "candidates", self.candidates, "it is 1 or more")
        _require_fraction("foreground_fraction", self.foreground_fraction)
        iou, low, high = self.foreground_iou, self.background_low, self.background_high
        require(0 < iou <= 1, "foreground_iou", iou, "it lies in 0..1, above 0")
        require(0 < high <= iou, "background_high", high, f"it lies in 0..foreground_iou={iou}")
        require(0 <= low < high, "background_low", low, f"it lies in 0..background_high={high}")

    def share(self, images: int) -> int:
        """Return the number of RoIs of each image of a minibatch."""
        return self.rois if self.per == "image" else max(self.rois // images, 1)


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
    boxes = anchors[sample.indices]
    matched = gather_boxes(targets.boxes, match.indices.gather(1, sample.indices))
    return AnchorSamples(sample.indices, boxes, labels, encode(boxes, matched), matched)


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
    candidates = label_rois(proposals, targets, settings, delta_mean, delta_std)
    sample = sample_balanced(
        candidates.labels > 0,
        candidates.labels == 0,
        settings.share(len(candidates.boxes)),
        settings.foreground_fraction,
        repeat=settings.fill == "repeat",
        generator=generator,
    )
    # Places beyond the number of candidates would stay empty and cost as much as others.
    if settings.fill == "short":
        sample = Sample(*(part[:, : candidates.labels.shape[1]] for part in sample))
    return take_rois(candidates, sample.indices, sample.positive | sample.negative)


def label_rois(
    proposals: Proposals,
    targets: Targets,
    settings: RoISampling,
    delta_mean: Float[Tensor, "C 4"],
    delta_std: Float[Tensor, "C 4"],
) -> RoISamples:
    """Return all RoIs that may be learned from, with class labels and box targets.

    The label is -1 for what is neither foreground nor background. Arguments are those of
    :func:`sample_rois`.
    """
    boxes, valid = proposals.boxes, proposals.valid
    hard = settings.mining == "hard"
    if hard:
        boxes, valid = boxes[:, : settings.candidates], valid[:, : settings.candidates]
    if settings.append_truth:
        boxes = torch.cat([boxes, targets.boxes], dim=1)
        valid = torch.cat([valid, targets.learned], dim=1)
    if boxes.shape[1] == 0:  # stored proposals may be none at all: one place that is never drawn
        boxes, valid = boxes.new_zeros(len(boxes), 1, 4), valid.new_zeros(len(boxes), 1)

    ious = masked_iou(targets.boxes, targets.learned, boxes.detach())
    match = best_match(ious, targets.boxes, targets.crowd, boxes.detach())
    foreground = match.ious >= settings.foreground_iou
    low = targets.learned.any(dim=1, keepdim=True) * (0.0 if hard else settings.background_low)
    background = (match.ious >= low) & (match.ious < settings.background_high) & ~match.in_crowd
    matched = gather_boxes(targets.boxes, match.indices)
    classes = torch.zeros_like(match.indices)
    if targets.labels.shape[1]:
        classes = targets.labels.gather(1, match.indices)
    classes = torch.where(foreground, classes, 0)
    return RoISamples(
        boxes=boxes,
        labels=torch.where((foreground | background) & valid, classes, -1),
        deltas=(encode(boxes, matched) - delta_mean[classes]) / delta_std[classes],
        matched_boxes=matched,
    )


def _require_fraction(key: str, value: float) -> None:
    require(0 <= value <= 1, key, value, "it lies in 0..1")
