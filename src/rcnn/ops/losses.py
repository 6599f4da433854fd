"""The loss terms of the RPN and of the box head.

Letters: B images, S sampled anchors of an image, R RoIs, K classes. A loss never samples; unused
places carry the label -1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def smooth_l1(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], beta: float
) -> Float[Tensor, "*n"]:
    """Return the robust box loss of each box, summed over its four numbers.

    ``0.5 x^2 / beta`` below ``beta`` and ``|x| - beta / 2`` above (Fast R-CNN, equation 3, has
    beta 1; Caffe's sigma is ``beta = 1 / sigma^2``).
    """
    return F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).sum(dim=-1)


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


def masked_box_loss(
    predicted: Float[Tensor, "*n 4"],
    target: Float[Tensor, "*n 4"],
    labels: Int[Tensor, "*n"],
    beta: float,
    divisor: Float[Tensor, ""] | Int[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return smooth-L1 summed over the boxes with a positive label, over ``divisor``.

    Dividing by all samples rather than by the positives gives each positive the same weight
    whatever the mix (Faster R-CNN, equation 1).
    """
    terms = smooth_l1(predicted, target, beta)
    return torch.where(labels > 0, terms, 0.0).sum() / divisor.clamp(min=1)


def classification_loss(
    logits: Float[Tensor, "*n C"], labels: Int[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """Return the softmax cross-entropy over background and K classes, averaged over used RoIs."""
    terms = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=-1, reduction="sum"
    )
    return terms / (labels >= 0).sum().clamp(min=1)


def deltas_of_class(
    deltas: Float[Tensor, "*n D 4"], labels: Int[Tensor, "*n"]
) -> Float[Tensor, "*n 4"]:
    """Return each RoI's deltas for its own class (D = K + 1), or the only ones (D = 1)."""
    if deltas.shape[-2] == 1:
        return deltas.squeeze(-2)
    index = labels.clamp(min=0)[..., None, None].expand(*labels.shape, 1, 4)
    return deltas.gather(-2, index).squeeze(-2)
