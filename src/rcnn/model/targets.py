"""The two target-assignment layers: labels and box targets of sampled anchors and RoIs.

Letters: A anchors of an image.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from rcnn.ops.boxes import inside
from rcnn.ops.deltas import encode
from rcnn.ops.matching import best_match, gather_boxes, is_low_quality_match, masked_iou
from rcnn.ops.sampling import Sample, sample_balanced, take_rois
from rcnn.settings import Fraction, FractionBelowOne, PositiveFraction, require, settings
from rcnn.structures import AnchorSamples, ImageBatch, Proposals, RoISamples, Targets


@settings
class AnchorSampling:
    """Which anchors the RPN is trained on (Faster R-CNN, sections 3.1.2 and 3.1.3).

    Attributes:
        positive_iou: an anchor is positive if its IoU with any ground-truth box is at least this.
        negative_iou: an anchor is negative if its IoU with all of them is below this.
        low_quality_margin: the best anchors of each ground-truth box are positive whatever their
            IoU; so are those whose IoU is less than this below the best.
        skip_border_anchors: leave out anchors that cross the border of the image.
        samples: number of anchors per image.
        positive_fraction: largest share of positives among them.
    """

    positive_iou: PositiveFraction = 0.7
    negative_iou: Fraction = 0.3
    low_quality_margin: FractionBelowOne = 0.0
    skip_border_anchors: bool = True
    samples: PositiveInt = 256
    positive_fraction: Fraction = 0.5

    def __post_init__(self) -> None:
        allowed = f"it should be at most positive_iou={self.positive_iou}"
        fits = self.negative_iou <= self.positive_iou
        require(fits, "negative_iou", self.negative_iou, allowed)


@settings
class RoISampling:
    """Which RoIs the box head is trained on (Fast R-CNN, section 2.3).

    Attributes:
        samples: number of RoIs.
        samples_per: ``minibatch``: that many over all images of a minibatch, an equal share each
            (two images and 128 RoIs are 64 each); ``image``: that many from every image.
        foreground_fraction: largest share of foreground.
        foreground_iou: a RoI is foreground if its IoU with a ground-truth box is at least this.
        background_low: a RoI is background if its largest IoU is at least this (0.1 in Fast R-CNN,
            0 in Faster R-CNN; in an image without objects every RoI is background) ...
        background_high: ... and below this.
        append_gt: add the ground-truth boxes to the proposals.
        pad_with: what fills a sample that has too little background: ``background`` that is drawn
            again, or ``nothing``.
        ohem: instead of a random sample, keep the RoIs with the largest loss, and of RoIs that
            overlap by more than 0.7 only the one with the larger loss (online hard example mining:
            Shrivastava et al. 2016). ``foreground_fraction``, ``background_low`` and ``pad_with``
            have no effect then.
        ohem_candidates: largest number of proposals per image whose loss is computed, best first.
    """

    samples: PositiveInt = 128
    samples_per: Literal["minibatch", "image"] = "minibatch"
    foreground_fraction: Fraction = 0.25
    foreground_iou: PositiveFraction = 0.5
    background_low: Fraction = 0.0
    background_high: PositiveFraction = 0.5
    append_gt: bool = True
    pad_with: Literal["nothing", "background"] = "nothing"
    ohem: bool = False
    ohem_candidates: PositiveInt = 2000

    def __post_init__(self) -> None:
        low, high, iou = self.background_low, self.background_high, self.foreground_iou
        require(high <= iou, "background_high", high, f"it should be at most foreground_iou={iou}")
        require(low < high, "background_low", low, f"it should be below background_high={high}")

    def rois_per_image(self, images: int) -> int:
        """Return the number of RoIs of each image of a minibatch."""
        return self.samples if self.samples_per == "image" else max(self.samples // images, 1)


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
    if settings.skip_border_anchors:
        usable = inside(anchors, batch.sizes)
    ious = masked_iou(targets.boxes, targets.is_target, anchors[None]) * usable[:, None, :]
    match = best_match(ious, targets.boxes, targets.crowd, anchors[None])

    # The best anchors of a box are positive even below the threshold, ties included.
    best_of_box = is_low_quality_match(ious, settings.low_quality_margin)
    positive = (match.ious >= settings.positive_iou) | best_of_box
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
    generator: torch.Generator | None = None,
) -> RoISamples:
    """Draw the RoIs of each image from its proposals, with class labels and box targets."""
    candidates = label_rois(proposals, targets, settings)
    sample = sample_balanced(
        candidates.labels > 0,
        candidates.labels == 0,
        settings.rois_per_image(len(candidates.boxes)),
        settings.foreground_fraction,
        repeat=settings.pad_with == "background",
        generator=generator,
    )
    # Slots beyond the number of candidates would stay empty and cost as much as the others.
    if settings.pad_with == "nothing":
        sample = Sample(*(part[:, : candidates.labels.shape[1]] for part in sample))
    return take_rois(candidates, sample.indices, sample.positive | sample.negative)


def label_rois(proposals: Proposals, targets: Targets, settings: RoISampling) -> RoISamples:
    """Return all RoIs that can be sampled, with class labels and box targets.

    The label is -1 for what is neither foreground nor background.
    """
    boxes, valid = proposals.boxes, proposals.valid
    if settings.ohem:
        most = settings.ohem_candidates
        boxes, valid = boxes[:, :most], valid[:, :most]
    if settings.append_gt:
        boxes = torch.cat([boxes, targets.boxes], dim=1)
        valid = torch.cat([valid, targets.is_target], dim=1)
    if boxes.shape[1] == 0:  # stored proposals may be none at all: one slot that is never drawn
        boxes, valid = boxes.new_zeros(len(boxes), 1, 4), valid.new_zeros(len(boxes), 1)

    ious = masked_iou(targets.boxes, targets.is_target, boxes.detach())
    match = best_match(ious, targets.boxes, targets.crowd, boxes.detach())
    foreground = match.ious >= settings.foreground_iou
    # An image without objects has background only, whatever the window.
    low = 0.0 if settings.ohem else settings.background_low * targets.is_target.any(1, keepdim=True)
    background = (match.ious >= low) & (match.ious < settings.background_high) & ~match.in_crowd
    matched = gather_boxes(targets.boxes, match.indices)
    classes = torch.zeros_like(match.indices)
    if targets.labels.shape[1]:
        classes = targets.labels.gather(1, match.indices)
    labels = torch.where(foreground, classes, torch.where(background, 0, -1))
    labels = torch.where(valid, labels, -1)
    return RoISamples(boxes, labels, encode(boxes, matched), matched)
