"""The multi-task loss: two terms of the RPN, two of the box head.

Letters: B images, A anchors, S sampled anchors, R RoIs, K classes, D sets of deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.ops.boxes import in_full
from rcnn.ops.deltas import decode
from rcnn.ops.losses import (
    Classifier,
    classification_terms,
    deltas_of_class,
    objectness_loss,
    overlap_loss,
    smooth_l1,
)
from rcnn.settings import require
from rcnn.structures import AnchorSamples, RoISamples

BoxLoss = Literal["smooth_l1", "iou", "giou", "diou", "ciou"]
"""Of the deltas, or one minus the overlap of the box that they lead to with the true one."""


@dataclass(frozen=True)
class LossSettings:
    """Kinds, weights, knees and divisors.

    Attributes:
        rpn_box_loss: ``smooth_l1`` of the deltas (Faster R-CNN, equation 1), or one minus the
            overlap of the predicted box with the true one: ``iou``, ``giou``, ``diou``, ``ciou``.
        rpn_box_weight: lambda of Faster R-CNN, equation 1.
        rpn_box_beta: knee of smooth-L1; Caffe's sigma 3 is 1/9.
        rpn_box_divisor: ``samples``: the number of sampled anchors, as the released code has it;
            ``locations``: the number of cells, about 2400, as the paper has it with lambda 10.
        roi_box_loss: likewise (Fast R-CNN, equation 2). Where the targets have the usual
            deviations, an overlap has about a quarter of the gradient of smooth-L1, which
            ``roi_box_weight`` can make up for.
        roi_box_weight: lambda of Fast R-CNN, equation 1.
        roi_box_beta: knee of smooth-L1.
    """

    rpn_box_loss: BoxLoss = "smooth_l1"
    rpn_box_weight: float = 1.0
    rpn_box_beta: float = 1 / 9
    rpn_box_divisor: Literal["samples", "locations"] = "samples"
    roi_box_loss: BoxLoss = "smooth_l1"
    roi_box_weight: float = 1.0
    roi_box_beta: float = 1.0

    def __post_init__(self) -> None:
        for key in ("rpn_box_weight", "roi_box_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "it is 0 or more")
        for key in ("rpn_box_beta", "roi_box_beta"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "it is 0 (plain L1) or more")


def rpn_losses(
    logits: Float[Tensor, "B A"],
    deltas: Float[Tensor, "B A 4"],
    samples: AnchorSamples,
    locations: int,
    settings: LossSettings,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the objectness and the box term (Faster R-CNN, equation 1).

    Args:
        logits: of all anchors.
        deltas: of all anchors.
        samples: which anchors count, and their targets.
        locations: the number of cells of an image.
        settings: weights and divisors.
    """
    sampled_logits = in_full(logits.gather(1, samples.indices))
    sampled_deltas = in_full(deltas.gather(1, samples.indices[:, :, None].expand(-1, -1, 4)))
    divisor = (samples.labels >= 0).sum()
    if settings.rpn_box_divisor == "locations":
        divisor = torch.full_like(divisor, locations * len(logits))
    terms = _box_terms(
        sampled_deltas, sampled_deltas, samples, settings.rpn_box_loss, settings.rpn_box_beta
    )
    boxes = settings.rpn_box_weight * terms.sum() / divisor.clamp(min=1)
    return objectness_loss(sampled_logits, samples.labels), boxes


class RoITerms(NamedTuple):
    """The class and the weighted box loss of each RoI; boxes are None without box regression.

    They are 0 where there is nothing to learn: the box of background, and unused places.
    """

    classes: Float[Tensor, "B R"]
    boxes: Float[Tensor, "B R"] | None

    @property
    def total(self) -> Float[Tensor, "B R"]:
        """The loss of each RoI."""
        return self.classes if self.boxes is None else self.classes + self.boxes


def roi_terms(
    logits: Float[Tensor, "B R K1"],
    deltas: Float[Tensor, "B R D 4"] | None,
    rois: RoISamples,
    settings: LossSettings,
    classifier: Classifier,
    delta_mean: Float[Tensor, "K1 4"],
    delta_std: Float[Tensor, "K1 4"],
) -> RoITerms:
    """Return the loss of each RoI (Fast R-CNN, equation 1).

    Args:
        logits: background first.
        deltas: normalised, of background and each class, or one set for all; or None.
        rois: with their targets.
        settings: of the box term.
        classifier: what the logits mean.
        delta_mean: by which the box targets are normalised, for background and each class.
        delta_std: likewise.
    """
    classes = classification_terms(in_full(logits), rois.labels, classifier)
    if deltas is None:
        return RoITerms(classes, None)
    own, label = deltas_of_class(in_full(deltas), rois.labels), rois.labels.clamp(min=0)
    moves = own * delta_std[label] + delta_mean[label]
    boxes = _box_terms(own, moves, rois, settings.roi_box_loss, settings.roi_box_beta)
    return RoITerms(classes, settings.roi_box_weight * boxes)


def roi_losses(
    terms: RoITerms, labels: Int[Tensor, "B R"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
    """Return the class and the box term, both over the number of used RoIs.

    Args:
        terms: of each RoI.
        labels: -1 for unused places.
    """
    used = (labels >= 0).sum().clamp(min=1)
    return terms.classes.sum() / used, None if terms.boxes is None else terms.boxes.sum() / used


def _box_terms(
    deltas: Float[Tensor, "B S 4"],
    moves: Float[Tensor, "B S 4"],
    samples: AnchorSamples | RoISamples,
    kind: BoxLoss,
    beta: float,
) -> Float[Tensor, "B S"]:
    """Return the box loss of each positive, 0 for the others.

    Args:
        deltas: as predicted.
        moves: the same, denormalised.
        samples: anchors or RoIs with their targets.
        kind: which loss.
        beta: knee of smooth-L1.
    """
    if kind == "smooth_l1":
        terms = smooth_l1(deltas, samples.deltas, beta)
    else:
        terms = overlap_loss(decode(samples.boxes, moves), samples.matched_boxes, kind)
    return torch.where(samples.labels > 0, terms, 0.0)
