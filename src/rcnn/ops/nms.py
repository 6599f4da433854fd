"""Non-maximum suppression, exact and greedy, for a whole minibatch.

Letters: B images, N boxes of an image, P places for those that are kept, M of one image.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from rcnn.kernels.nms_cpu import Candidates, nms_topk
from rcnn.ops.boxes import iou


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    iou_threshold: float,
    limit: int,
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Keep the best boxes of each image, none overlapping a better one of its group.

    Args:
        boxes: candidates.
        scores: the higher, the better.
        groups: boxes suppress only others of the same image and group (level or class).
        valid: candidates that take part.
        iou_threshold: a box goes if its IoU with a better kept one is above this.
        limit: P, the most that an image keeps.

    Returns:
        Positions among the N, best first, and which of the P places are in use.
    """
    batch, count = scores.shape
    boxes, scores = boxes.detach(), scores.detach()
    apart = offset_by_group(boxes, groups)
    # A GPU waits less for one call on all images than for several; a processor that compares pairs
    # one by one is better off where it may stop early. A thread for each image was no faster: the
    # operators are so short that threads wait for Python's lock.
    if boxes.device.type == "cpu":
        order = scores.argsort(dim=1, descending=True, stable=True)
        images = zip(boxes, groups, apart, order, valid.gather(1, order), strict=True)
        per_image = [
            nms_topk(Candidates(*image), best.masked_select(taking_part), iou_threshold, limit)
            for *image, best, taking_part in images
        ]
        kept = torch.cat([one + i * count for i, one in enumerate(per_image)])
    else:
        flat = apart.flatten(0, 1)
        candidates = valid.flatten().nonzero().squeeze(1)
        survivors = nms(flat[candidates], scores.flatten()[candidates].to(flat), iou_threshold)
        kept = candidates[survivors]
    return _pack(kept, batch, count, min(limit, count))


def topk(
    scores: Float[Tensor, "B N"], valid: Bool[Tensor, "B N"], limit: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return the ``limit`` best of each image, as :func:`suppress` does, without suppression."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = order[:, :limit]
    return kept, valid.gather(1, kept)


def offset_by_group(
    boxes: Float[Tensor, "B N 4"], groups: Int[Tensor, "B N"]
) -> Float[Tensor, "B N 4"]:
    """Move the boxes of each image and group to a place of their own, where they meet no others.

    This costs digits: float32 has too few for the classes of a large batch, so that an image's
    result would depend on its neighbours.
    """
    if boxes.numel() == 0:
        return boxes
    precise = boxes if boxes.device.type == "mps" else boxes.double()
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    place = groups + image * (groups.max() + 1)
    low, high = precise.amin(), precise.amax()
    return precise - low + (place * (high - low + 1))[:, :, None]


def _pack(
    kept: Int[Tensor, " M"], batch: int, count: int, places: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Sort flat positions, best first, into ``places`` places of each image."""
    image = kept // max(count, 1)
    member = image[:, None] == torch.arange(batch, device=kept.device)
    rank = (member.cumsum(dim=0) - 1).gather(1, image[:, None]).squeeze(1)  # within its image
    # What has no place lands in one column too many, which is cut off.
    column = rank.clamp(max=places)
    indices = kept.new_zeros(batch, places + 1)
    used = torch.zeros(batch, places + 1, dtype=torch.bool, device=kept.device)
    indices[image, column] = kept % max(count, 1)
    used[image, column] = True
    return indices[:, :places], used[:, :places]


SoftRule = Literal["linear", "gaussian"]
"""How much score an overlap costs."""


def soft_nms(
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
