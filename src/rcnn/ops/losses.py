"""The losses of boxes, and that of objectness.

Letters: B images, S sampled anchors of an image, K classes, D sets of deltas, ``*n`` any number of
boxes. A loss never samples; unused places carry the label -1.
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
"""Of two boxes: intersection over union, and its variants that know how far apart they are."""

SPECK = 1e-3
"""Pixels: a shorter side counts as this long, so that every ratio of sides is a number."""

TINY = 1e-7
"""Square pixels, or a share: what nothing is divided by less than."""


def smooth_l1(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], beta: float
) -> Float[Tensor, "*n"]:
    """Return the robust box loss of each box, summed over its four numbers.

    ``0.5 x^2 / beta`` below ``beta`` and ``|x| - beta / 2`` above (Fast R-CNN, equation 3, has
    beta 1; Caffe's sigma is ``beta = 1 / sigma^2``).
    """
    return F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).sum(dim=-1)


def overlap_loss(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], kind: Overlap
) -> Float[Tensor, "*n"]:
    """Return one minus the overlap of each predicted box with its target.

    ``iou``: intersection over union (Yu et al. 2016, who take its logarithm); ``giou``: less the
    share of the smallest box around both that neither fills (Rezatofighi et al. 2019); ``diou``:
    less the squared distance of the centres in diagonals of that box; ``ciou``: less the difference
    of the aspect ratios, too (both Zheng et al. 2020).
    """
    predicted, target = _visible(predicted), _visible(target)
    # (*n, 4) -> (*n, 1, 4): each with its own one
    shared = intersection(predicted[..., None, :], target[..., None, :])[..., 0, 0]
    union = (area(predicted) + area(target) - shared).clamp(min=TINY)
    overlap = shared / union
    if kind == "iou":
        return 1 - overlap
    # The smallest box around both
    first = torch.minimum(predicted[..., :2], target[..., :2])
    around = torch.maximum(predicted[..., 2:], target[..., 2:]) - first
    if kind == "giou":
        return 1 - overlap + 1 - union / around.prod(dim=-1).clamp(min=TINY)
    shift = (predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    diagonal = around.square().sum(dim=-1).clamp(min=TINY)
    loss = 1 - overlap + shift.square().sum(dim=-1) / diagonal
    if kind == "diou":
        return loss
    ratios = ((_aspect(target) - _aspect(predicted)) * 2 / math.pi).square()
    with torch.no_grad():  # a weight, which is not learned from
        weight = ratios / (1 - overlap + ratios).clamp(min=TINY)
    return loss + weight * ratios


def _aspect(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the arc tangent of width over height."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan2(width, height)


def _visible(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Return the boxes with sides of at least a speck; those of no area have no aspect ratio."""
    first = boxes[..., :2]
    return torch.cat([first, torch.maximum(boxes[..., 2:], first + SPECK)], dim=-1)


def objectness_loss(logits: Float[Tensor, "B S"], labels: Int[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Return the cross-entropy object / not object, averaged over the sampled anchors.

    Args:
        logits: log-odds of "object". A two-way softmax over (background, object) is the same
            function of the difference of its two logits.
        labels: 1, 0, or -1 for unused places.
    """
    terms = F.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0).to(logits.dtype), reduction="none"
    )
    used = labels >= 0
    return (terms * used).sum() / used.sum().clamp(min=1)


def deltas_of_class(
    deltas: Float[Tensor, "*n D 4"], labels: Int[Tensor, "*n"]
) -> Float[Tensor, "*n 4"]:
    """Return each RoI's deltas for its own class (D = K + 1), or the only ones (D = 1)."""
    if deltas.shape[-2] == 1:
        return deltas.squeeze(-2)
    index = labels.clamp(min=0)[..., None, None].expand(*labels.shape, 1, 4)
    return deltas.gather(-2, index).squeeze(-2)


Classifier = Literal["softmax", "one_vs_rest"]
"""One choice among background and K classes, or K independent questions."""


def classification_terms(
    logits: Float[Tensor, "*n K1"], labels: Int[Tensor, "*n"], classifier: Classifier
) -> Float[Tensor, "*n"]:
    """Return the loss of each RoI, 0 where it is not used.

    ``softmax``: the cross-entropy over background and K classes. ``one_vs_rest``: the binary
    cross-entropies of the K classes, summed; background is "none of them", and the logit of
    background is not used.

    Args:
        logits: background first.
        labels: 0..K, or -1 for unused places.
        classifier: what the logits mean.
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
    """Return the probability of each class but background."""
    if classifier == "softmax":
        return logits.softmax(dim=-1)[..., 1:]
    return logits[..., 1:].sigmoid()
