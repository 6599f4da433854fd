"""Losses of boxes, classes and objectness.

Letters: B images, S sampled anchors of an image, K classes, D sets of deltas (K + 1, or 1 if
class-agnostic); ``*n`` are any leading dimensions. A loss never samples; unused slots carry the
label -1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.ops.boxes import area, intersection

Overlap = Literal["iou", "giou", "diou", "ciou"]
"""Intersection over union of two boxes, and its variants that depend on their distance, too."""

Classifier = Literal["softmax", "one_vs_rest"]
"""One choice among background and K classes, or K independent yes-or-no questions."""

MIN_SIDE = 1e-3
"""Pixels; a shorter side counts as this long, so that every aspect ratio is defined."""

MIN_DIVISOR = 1e-7
"""Square pixels, or a share; smaller divisors are replaced by this."""


def smooth_l1(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], beta: float
) -> Float[Tensor, "*n"]:
    """Return the smooth-L1 loss of each box, summed over its four numbers.

    It is ``0.5 x^2 / beta`` below ``beta`` and ``|x| - beta / 2`` above. In Fast R-CNN, equation 3,
    beta is 1; with Caffe's sigma it is ``1 / sigma^2``; 0 is plain L1.
    """
    return F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).sum(dim=-1)


def overlap_loss(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], kind: Overlap
) -> Float[Tensor, "*n"]:
    """Return one minus the overlap of each predicted box with its target.

    Args:
        predicted: predicted boxes, in pixels.
        target: ground-truth box of each, in pixels.
        kind: measure of overlap. ``iou``: intersection over union (Yu et al. 2016, who take its
            logarithm). ``giou``: minus the share of the smallest enclosing box that neither box
            fills (Rezatofighi et al. 2019). ``diou``: minus the squared distance of the centres, in
            diagonals of the enclosing box. ``ciou``: minus the difference of the aspect ratios, too
            (both Zheng et al. 2020).
    """
    predicted, target = _with_min_side(predicted), _with_min_side(target)
    # (*n, 4) -> (*n, 1, 4): each box with its own target
    shared = intersection(predicted[..., None, :], target[..., None, :])[..., 0, 0]
    union = (area(predicted) + area(target) - shared).clamp(min=MIN_DIVISOR)
    overlap = shared / union
    if kind == "iou":
        return 1 - overlap
    # The smallest box that encloses both
    first = torch.minimum(predicted[..., :2], target[..., :2])
    around = torch.maximum(predicted[..., 2:], target[..., 2:]) - first
    if kind == "giou":
        return 1 - overlap + 1 - union / around.prod(dim=-1).clamp(min=MIN_DIVISOR)
    shift = (predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    diagonal = around.square().sum(dim=-1).clamp(min=MIN_DIVISOR)
    loss = 1 - overlap + shift.square().sum(dim=-1) / diagonal
    if kind == "diou":
        return loss
    ratios = ((_aspect(target) - _aspect(predicted)) * 2 / math.pi).square()
    with torch.no_grad():  # the paper has no gradient through this weight
        weight = ratios / (1 - overlap + ratios).clamp(min=MIN_DIVISOR)
    return loss + weight * ratios


def _aspect(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the arc tangent of width over height."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan2(width, height)


def _with_min_side(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Return the boxes with no side shorter than ``MIN_SIDE``."""
    first = boxes[..., :2]
    return torch.cat([first, torch.maximum(boxes[..., 2:], first + MIN_SIDE)], dim=-1)


def objectness_loss(logits: Float[Tensor, "B S"], labels: Int[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of "object", averaged over the sampled anchors.

    Args:
        logits: log-odds of "object"; of a two-way softmax the difference of both logits.
        labels: 1 for objects, 0 for background, -1 for unused slots.
    """
    terms = F.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0).to(logits.dtype), reduction="none"
    )
    used = labels >= 0
    return (terms * used).sum() / used.sum().clamp(min=1)


def deltas_of_class(
    deltas: Float[Tensor, "*n D 4"], labels: Int[Tensor, "*n"]
) -> Float[Tensor, "*n 4"]:
    """Return the deltas of each RoI for its own class, or its only ones if class-agnostic."""
    if deltas.shape[-2] == 1:
        return deltas.squeeze(-2)
    index = labels.clamp(min=0)[..., None, None].expand(*labels.shape, 1, 4)
    return deltas.gather(-2, index).squeeze(-2)


def classification_losses(
    logits: Float[Tensor, "*n K1"], labels: Int[Tensor, "*n"], classifier: Classifier
) -> Float[Tensor, "*n"]:
    """Return the class loss of each RoI, 0 in unused slots.

    Args:
        logits: class logits, background first.
        labels: 0 for background, 1..K, or -1 for unused slots.
        classifier: kind of classifier that the logits belong to. ``softmax``: cross-entropy over
            background and the K classes. ``one_vs_rest``: sum of the binary cross-entropies of the
            K classes; the logit of background has no effect.
    """
    if classifier == "softmax":
        terms = F.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=-1, reduction="none"
        )
        return terms.view(labels.shape)
    classes = torch.arange(1, logits.shape[-1], device=labels.device)
    wanted = (labels[..., None] == classes).to(logits.dtype)  # (*n, K)
    each = F.binary_cross_entropy_with_logits(logits[..., 1:], wanted, reduction="none")
    return torch.where(labels >= 0, each.sum(dim=-1), 0.0)


def class_scores(logits: Float[Tensor, "*n K1"], classifier: Classifier) -> Float[Tensor, "*n K"]:
    """Return the probability of each class except background."""
    if classifier == "softmax":
        return logits.softmax(dim=-1)[..., 1:]
    return logits[..., 1:].sigmoid()
