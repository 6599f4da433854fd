"""Samples of anchors and RoIs: balanced at random, or the hardest.

Letters: B images, N candidates per image, S slots of a sample, R slots of a sample of RoIs, T
shuffled candidates.

All images are sampled at once, without a loop: each candidate gets a random key, and those with the
largest keys are a random subset without replacement.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.ops.nms import suppress
from rcnn.structures import RoISamples

CO_LOCATED_IOU = 0.7
"""IoU above which two RoIs count as one (Shrivastava et al. 2016, section 4.2)."""


class Sample(NamedTuple):
    """A sample of each image: positives first, then negatives, then unused slots.

    Attributes:
        indices: indices of the sampled candidates; 0 in unused slots.
        positive: slots that hold a positive.
        negative: slots that hold a negative.
    """

    indices: Int[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    negative: Bool[Tensor, "B S"]


def sample_balanced(
    positive: Bool[Tensor, "B N"],
    negative: Bool[Tensor, "B N"],
    slots: int,
    positive_fraction: float,
    repeat: bool = False,
    generator: torch.Generator | None = None,
) -> Sample:
    """Return a random sample of each image, at most a fraction of it positive.

    Negatives fill what the positives leave (Fast R-CNN, section 2.3; Faster R-CNN, section 3.1.3).

    Args:
        positive: candidates that may be drawn as positives.
        negative: candidates that may be drawn as negatives.
        slots: S.
        positive_fraction: largest share of positives, 0..1.
        repeat: draw negatives again until all slots are full if there are too few (positives, if an
            image has no negative at all), instead of leaving slots unused.
        generator: source of randomness.
    """
    batch, count = positive.shape
    device = positive.device
    limit = int(slots * positive_fraction)
    slot = torch.arange(slots, device=device).expand(batch, slots)
    if count == 0:
        nothing = torch.zeros_like(slot)
        return Sample(nothing, nothing.bool(), nothing.bool())

    positives, positive_total = _shuffle(positive, min(limit, count), generator)
    negatives, negative_total = _shuffle(negative, min(slots, count), generator)
    positive_total = positive_total.clamp(max=limit)
    rest = slot - positive_total  # index among the shuffled negatives
    if repeat:
        only_positives = (negative_total == 0) & (positive_total > 0)
        is_positive = (slot < positive_total) | only_positives
        is_negative = ~is_positive & (negative_total > 0)
        rest = rest % negative_total.clamp(min=1, max=negatives.shape[1])
        first = slot % positive_total.clamp(min=1)
    else:
        is_positive = slot < positive_total
        is_negative = ~is_positive & (rest < negative_total)
        first = slot
    # (B, limit), (B, S) -> (B, S)
    chosen_positive = positives.gather(1, first.clamp(0, max(positives.shape[1] - 1, 0)))
    chosen_negative = negatives.gather(1, rest.clamp(0, negatives.shape[1] - 1))
    indices = chosen_positive.where(is_positive, chosen_negative)
    return Sample(indices.where(is_positive | is_negative, 0), is_positive, is_negative)


def take_rois(
    candidates: RoISamples, indices: Int[Tensor, "B R"], used: Bool[Tensor, "B R"]
) -> RoISamples:
    """Return the sampled RoIs, with the label -1 in unused slots.

    An unused slot holds a copy of a sampled RoI: it has no loss, but batch norms in the box head
    count all that passes through them.

    Args:
        candidates: labelled RoIs.
        indices: indices of the sampled candidates, the used slots first.
        used: which slots are in use.
    """
    slot = torch.arange(used.shape[1], device=used.device)
    filled = indices.gather(1, slot % used.sum(dim=1, keepdim=True).clamp(min=1))
    four = filled[:, :, None].expand(-1, -1, 4)
    return RoISamples(
        boxes=candidates.boxes.gather(1, four),
        labels=torch.where(used, candidates.labels.gather(1, filled), -1),
        deltas=candidates.deltas.gather(1, four),
        matched_boxes=candidates.matched_boxes.gather(1, four),
    )


def hard_rois(candidates: RoISamples, losses: Float[Tensor, "B N"], limit: int) -> RoISamples:
    """Return the candidates of each image with the largest loss (Shrivastava et al. 2016).

    RoIs that lie on each other have almost the same loss and would be counted twice; so
    non-maximum suppression drops those that overlap a harder one.

    Args:
        candidates: labelled RoIs; those with the label -1 take no part.
        losses: loss of each candidate.
        limit: largest number of RoIs per image; R is this, or N if that is less.
    """
    group = torch.zeros_like(candidates.labels)
    used = candidates.labels >= 0
    indices, kept = suppress(candidates.boxes, losses, group, used, CO_LOCATED_IOU, limit)
    return take_rois(candidates, indices, kept)


def _shuffle(
    candidates: Bool[Tensor, "B N"], most: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B 1"]]:
    """Return up to ``most`` indices in random order, candidates first, and their number."""
    most = max(most, 1)
    keys = torch.rand(candidates.shape, device=candidates.device, generator=generator)
    order = keys.masked_fill(~candidates, -1.0).topk(most, dim=1).indices
    return order, candidates.sum(dim=1, keepdim=True)
