"""Soft suppression: what overlaps a better box loses score, not its place (Bodla et al. 2017).

Letters: ``*n`` groups, which are the classes of each image, N boxes of a group.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.boxes import iou

SoftRule = Literal["linear", "gaussian"]
"""How much score an overlap costs."""


def soften(
    boxes: Float[Tensor, "*n N 4"],
    scores: Float[Tensor, "*n N"],
    rule: SoftRule,
    iou_threshold: float,
    sigma: float,
    score: float,
    limit: int,
) -> Float[Tensor, "*n N"]:
    """Return the scores after soft suppression, group by group (Bodla et al., figure 2).

    The best box of a group is chosen, the scores of the others decay by their IoU with it, and so
    on. Scores only fall, so that boxes are chosen best first: what has not been chosen when a group
    has its ``limit``, or when nothing above ``score`` is left, does not matter and returns as 0.

    Args:
        boxes: of each group.
        scores: 0 for a box that takes no part, positive for the others.
        rule: ``linear``: times ``1 - IoU`` (equation 2); ``gaussian``: times
            ``exp(-IoU^2 / sigma)`` (equation 3).
        iou_threshold: ``linear`` costs only a box whose IoU is at least this.
        sigma: of ``gaussian``.
        score: scores up to this are of no interest.
        limit: the most boxes of a group that are of interest.
    """
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(min(limit, scores.shape[-1])):
        best, place = torch.where(chosen, -1.0, scores).max(dim=-1, keepdim=True)
        if not (best > score).any():
            break
        chosen = chosen.scatter(-1, place, True)
        box = boxes.gather(-2, place[..., None].expand(*place.shape, 4))
        overlap = iou(box, boxes).squeeze(-2)  # (*n, 1, N) -> (*n, N)
        if rule == "linear":
            decay = torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            decay = torch.exp(-overlap.square() / sigma)
        scores = torch.where(chosen, scores, scores * decay)
    return torch.where(chosen, scores, 0.0)
