"""The multi-task loss: two terms of the RPN, two of the box head.

Letters: B images, A anchors, S sampled anchors, R RoIs, K classes, D sets of deltas.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat
from torch import Tensor

from rcnn.ops.boxes import full_precision
from rcnn.ops.deltas import decode
from rcnn.ops.losses import (
    Classifier,
    classification_losses,
    deltas_of_class,
    objectness_loss,
    overlap_loss,
    smooth_l1,
)
from rcnn.settings import settings
from rcnn.structures import AnchorSamples, RoISamples

BoxLoss = Literal["smooth_l1", "iou", "giou", "diou", "ciou"]
"""Smooth-L1 of the deltas, or one minus an overlap of the predicted with the ground-truth box."""


@settings
class LossSettings:
    """Kinds, weights and divisors of the box losses.

    Attributes:
        rpn_box_loss: kind of the RPN's box loss (Faster R-CNN, equation 1), see ``BoxLoss``.
        rpn_box_weight: lambda of Faster R-CNN, equation 1.
        rpn_box_beta: knee of smooth-L1; Caffe's sigma 3 is 1/9.
        rpn_box_divisor: ``samples``: number of sampled anchors, as in the released code;
            ``locations``: number of cells, about 2400, as in the paper, where lambda is 10.
        roi_box_loss: kind of the RoIs' box loss (Fast R-CNN, equation 2), see ``BoxLoss``. With the
            usual deviations of the targets the gradient of an overlap is about a quarter of
            smooth-L1's; ``roi_box_weight`` can make up for it.
        roi_box_weight: lambda of Fast R-CNN, equation 1.
        roi_box_beta: knee of smooth-L1; 0 is plain L1.
    """

    rpn_box_loss: BoxLoss = "smooth_l1"
    rpn_box_weight: NonNegativeFloat = 1.0
    rpn_box_beta: NonNegativeFloat = 1 / 9
    rpn_box_divisor: Literal["samples", "locations"] = "samples"
    roi_box_loss: BoxLoss = "smooth_l1"
    roi_box_weight: NonNegativeFloat = 1.0
    roi_box_beta: NonNegativeFloat = 1.0


def rpn_losses(
    logits: Float[Tensor, "B A"],
    deltas: Float[Tensor, "B A 4"],
    samples: AnchorSamples,
    locations: int,
    settings: LossSettings,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the objectness and the box term (Faster R-CNN, equation 1).

    Logits (log-odds of "object") and deltas are those of all anchors; an image has ``locations``
    cells.
    """
    logits = full_precision(logits.gather(1, samples.indices))
    deltas = full_precision(deltas.gather(1, samples.indices[:, :, None].expand(-1, -1, 4)))
    if settings.rpn_box_loss == "smooth_l1":
        boxes = smooth_l1(deltas, samples.deltas, settings.rpn_box_beta)
    else:
        predicted = decode(samples.boxes, deltas)
        boxes = overlap_loss(predicted, samples.matched_boxes, settings.rpn_box_loss)
    boxes = torch.where(samples.labels > 0, boxes, 0.0)
    divisor = (samples.labels >= 0).sum()
    if settings.rpn_box_divisor == "locations":
        divisor = torch.full_like(divisor, locations * len(logits))
    boxes = settings.rpn_box_weight * boxes.sum() / divisor.clamp(min=1)
    return objectness_loss(logits, samples.labels), boxes


class PerRoILosses(NamedTuple):
    """The class and the weighted box loss of each RoI; boxes are None without box regression.

    The box loss of background is 0, and so are both losses of unused slots.
    """

    classes: Float[Tensor, "B R"]
    boxes: Float[Tensor, "B R"] | None

    @property
    def total(self) -> Float[Tensor, "B R"]:
        """The loss of each RoI."""
        return self.classes if self.boxes is None else self.classes + self.boxes


def per_roi_losses(
    logits: Float[Tensor, "B R K1"],
    deltas: Float[Tensor, "B R D 4"] | None,
    rois: RoISamples,
    settings: LossSettings,
    classifier: Classifier,
    delta_mean: Float[Tensor, "K1 4"],
    delta_std: Float[Tensor, "K1 4"],
) -> PerRoILosses:
    """Return the loss of each RoI (Fast R-CNN, equation 1).

    Args:
        logits: class logits, background first.
        deltas: normalised box deltas, one set for background and each class or one for all; None
            without box regression.
        rois: RoIs with their targets.
        settings: kind and weight of the box loss.
        classifier: kind of classifier that the logits belong to.
        delta_mean: mean of the box deltas, for background and each class.
        delta_std: standard deviation of the box deltas, for background and each class.
    """
    classes = classification_losses(full_precision(logits), rois.labels, classifier)
    if deltas is None:
        return PerRoILosses(classes, None)
    deltas = deltas_of_class(full_precision(deltas), rois.labels)
    label = rois.labels.clamp(min=0)
    mean, std = delta_mean[label], delta_std[label]
    if settings.roi_box_loss == "smooth_l1":
        boxes = smooth_l1(deltas, (rois.deltas - mean) / std, settings.roi_box_beta)
    else:
        predicted = decode(rois.boxes, deltas * std + mean)
        boxes = overlap_loss(predicted, rois.matched_boxes, settings.roi_box_loss)
    boxes = torch.where(rois.labels > 0, boxes, 0.0)
    return PerRoILosses(classes, settings.roi_box_weight * boxes)


def roi_losses(
    losses: PerRoILosses, labels: Int[Tensor, "B R"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
    """Return the class and the box term: sums over the RoIs, divided by the number of used ones."""
    used = (labels >= 0).sum().clamp(min=1)
    boxes = losses.boxes
    return losses.classes.sum() / used, None if boxes is None else boxes.sum() / used
