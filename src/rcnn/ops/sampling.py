"""Drawing a balanced minibatch of anchors or RoIs, for all images at once and without loops.

Each candidate gets a random key; taking those with the largest keys is taking a random subset
without replacement. Letters: B images, N candidates, S places (R places of RoIs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.ops.nms import suppress
from rcnn.structures import RoISamples


class Sample(NamedTuple):
    """What was drawn: positives first, then negatives, then unused places.

    Attributes:
        indices: of the candidates; 0 at unused places.
        positive: places that hold a positive.
        negative: places that hold a negative.
    """

    indices: Int[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    negative: Bool[Tensor, "B S"]


def sample_balanced(
    positive: Bool[Tensor, "B N"],
    negative: Bool[Tensor, "B N"],
    places: int,
    positive_fraction: float,
    repeat: bool = False,
    generator: torch.Generator | None = None,
) -> Sample:
    """Draw at most ``places`` candidates per image, at most a fraction of them positive.

    Negatives fill what the positives leave (Fast R-CNN, section 2.3; Faster R-CNN, section 3.1.3).

    Args:
        positive: candidates that may be drawn as positives.
        negative: candidates that may be drawn as negatives.
        places: S.
        positive_fraction: the largest share of positives.
        repeat: where negatives are too few, draw them again until the places are full (positives,
            where an image has no negative at all), instead of leaving places unused.
        generator: the source of randomness.
    """
    batch, count = positive.shape
    device = positive.device
    limit = int(places * positive_fraction)
    place = torch.arange(places, device=device).expand(batch, places)
    if count == 0:
        nothing = torch.zeros_like(place)
        return Sample(nothing, nothing.bool(), nothing.bool())

    positives, positive_total = _shuffle(positive, min(limit, count), generator)
    negatives, negative_total = _shuffle(negative, min(places, count), generator)
    positive_total = positive_total.clamp(max=limit)
    rest = place - positive_total  # position among the negatives
    if repeat:
        only_positives = (negative_total == 0) & (positive_total > 0)
        is_positive = (place < positive_total) | only_positives
        is_negative = ~is_positive & (negative_total > 0)
        rest = rest % negative_total.clamp(min=1, max=negatives.shape[1])
        first = place % positive_total.clamp(min=1)
    else:
        is_positive = place < positive_total
        is_negative = ~is_positive & (rest < negative_total)
        first = place
    # (B, limit), (B, S) -> (B, S)
    chosen_positive = positives.gather(1, first.clamp(0, max(positives.shape[1] - 1, 0)))
    chosen_negative = negatives.gather(1, rest.clamp(0, negatives.shape[1] - 1))
    indices = chosen_positive.where(is_positive, chosen_negative)
    return Sample(indices.where(is_positive | is_negative, 0), is_positive, is_negative)


def take_rois(
    candidates: RoISamples, indices: Int[Tensor, "B R"], used: Bool[Tensor, "B R"]
) -> RoISamples:
    """Return those of the candidates that were drawn, with the label -1 at unused places.

    An unused place holds a copy of a drawn RoI: it has no loss, but batch norms in the box head count
    what goes through them.

    Args:
        candidates: all of them.
        indices: which were drawn; the used places stand before the others.
        used: which places are in use.
    """
    place = torch.arange(used.shape[1], device=used.device)
    filled = indices.gather(1, place % used.sum(dim=1, keepdim=True).clamp(min=1))
    four = filled[:, :, None].expand(-1, -1, 4)
    return RoISamples(
        boxes=candidates.boxes.gather(1, four),
        labels=torch.where(used, candidates.labels.gather(1, filled), -1),
        deltas=candidates.deltas.gather(1, four),
        matched_boxes=candidates.matched_boxes.gather(1, four),
    )


def _shuffle(
    candidates: Bool[Tensor, "B N"], places: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B 1"]]:
    """Return up to ``places`` random candidates, real ones first, and how many are real."""
    places = max(places, 1)
    keys = torch.rand(candidates.shape, device=candidates.device, generator=generator)
    order = keys.masked_fill(~candidates, -1.0).topk(places, dim=1).indices
    return order, candidates.sum(dim=1, keepdim=True)


CO_LOCATED_IOU = 0.7
"""RoIs that overlap more are taken for the same one (section 4.2)."""


def hard_rois(candidates: RoISamples, losses: Float[Tensor, "B N"], places: int) -> RoISamples:
    """Keep the candidates of each image with the largest loss, none beside a harder one.

    RoIs that lie on each other have almost the same loss and would be counted twice; so losses are
    suppressed as scores are.

    Args:
        candidates: labelled; -1 takes no part.
        losses: of each candidate.
        places: R, or N if that is less.
    """
    group = torch.zeros_like(candidates.labels)
    used = candidates.labels >= 0
    indices, kept = suppress(candidates.boxes, losses, group, used, CO_LOCATED_IOU, places)
    return take_rois(candidates, indices, kept)
