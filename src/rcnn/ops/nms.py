"""Non-maximum suppression, hard and soft, for a whole minibatch.

Letters: B images, N boxes of an image, P slots for kept boxes, M kept boxes of all images.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from rcnn.kernels.nms_cpu import Candidates, nms_topk
from rcnn.ops.boxes import iou

SoftRule = Literal["linear", "gaussian"]
"""How the score of an overlapping box decays, see ``soft_nms``."""


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    iou_threshold: float,
    limit: int,
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return the boxes of each image that exact, greedy non-maximum suppression keeps.

    Args:
        boxes: candidates.
        scores: score of each candidate, the higher the better.
        groups: level or class of each candidate; boxes suppress only others of their group.
        valid: candidates that take part.
        iou_threshold: largest IoU of a kept box with a better kept one of its group.
        limit: largest number of kept boxes per image; P is this, or N if that is less.

    Returns:
        Indices of the kept boxes, best first, and which of the P slots are in use.
    """
    batch, count = scores.shape
    boxes, scores = boxes.detach(), scores.detach()
    offset_boxes = offset_by_group(boxes, groups)
    # A GPU takes less time for one call on all images than for several. A CPU compares pairs one by
    # one and gains by stopping early in each image. A thread for each image was no faster: the
    # operators are so short that the threads wait for Python's lock.
    if boxes.device.type == "cpu":
        order = scores.argsort(dim=1, descending=True, stable=True)
        images = zip(boxes, groups, offset_boxes, order, valid.gather(1, order), strict=True)
        per_image = [
            nms_topk(Candidates(*image), best.masked_select(taking_part), iou_threshold, limit)
            for *image, best, taking_part in images
        ]
        kept = torch.cat([one + i * count for i, one in enumerate(per_image)])
    else:
        flat = offset_boxes.flatten(0, 1)
        candidates = valid.flatten().nonzero().squeeze(1)
        survivors = nms(flat[candidates], scores.flatten()[candidates].to(flat), iou_threshold)
        kept = candidates[survivors]
    return _pack(kept, batch, count, min(limit, count))


def topk(
    scores: Float[Tensor, "B N"], valid: Bool[Tensor, "B N"], limit: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return the best valid boxes of each image: as ``suppress``, without suppression."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = order[:, :limit]
    return kept, valid.gather(1, kept)


def offset_by_group(
    boxes: Float[Tensor, "B N 4"], groups: Int[Tensor, "B N"]
) -> Float[Tensor, "B N 4"]:
    """Return the boxes, each image and group moved so far that they overlap no others.

    They are in double precision: the offsets cost digits, of which float32 has too few for the
    classes of a large batch. MPS has no double precision.
    """
    if boxes.numel() == 0:
        return boxes
    precise = boxes if boxes.device.type == "mps" else boxes.double()
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    number = groups + image * (groups.max() + 1)
    low, high = precise.amin(), precise.amax()
    return precise - low + (number * (high - low + 1))[:, :, None]


def _pack(
    kept: Int[Tensor, " M"], batch: int, count: int, slots: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return indices into the boxes of all images, best first, as those of each image."""
    image = kept // max(count, 1)
    member = image[:, None] == torch.arange(batch, device=kept.device)
    rank = (member.cumsum(dim=0) - 1).gather(1, image[:, None]).squeeze(1)  # within its image
    # What exceeds the slots goes to an extra column, which is cut off.
    column = rank.clamp(max=slots)
    indices = kept.new_zeros(batch, slots + 1)
    used = torch.zeros(batch, slots + 1, dtype=torch.bool, device=kept.device)
    indices[image, column] = kept % max(count, 1)
    used[image, column] = True
    return indices[:, :slots], used[:, :slots]


def soft_nms(
    boxes: Float[Tensor, "*n N 4"],
    scores: Float[Tensor, "*n N"],
    rule: SoftRule,
    iou_threshold: float,
    sigma: float,
    score: float,
    limit: int,
) -> Float[Tensor, "*n N"]:
    """Return the scores after soft non-maximum suppression (Bodla et al. 2017, figure 2).

    The best box of a group is chosen, the scores of the others decay by their IoU with it, and so
    on. Scores only fall, so that boxes are chosen best first. A box that is not chosen when its
    group has reached ``limit``, or when no score above ``score`` is left, returns with score 0.

    Args:
        boxes: N boxes of each group.
        scores: score of each box, positive, or 0 for a box that takes no part.
        rule: ``linear``: the score is multiplied by ``1 - IoU`` (equation 2); ``gaussian``: by
            ``exp(-IoU^2 / sigma)`` (equation 3).
        iou_threshold: smallest IoU at which ``linear`` changes a score.
        sigma: width of ``gaussian``.
        score: score that a box must exceed to be chosen.
        limit: largest number of chosen boxes of a group.
    """
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(min(limit, scores.shape[-1])):
        best, index = torch.where(chosen, -1.0, scores).max(dim=-1, keepdim=True)
        if not (best > score).any():
            break
        chosen = chosen.scatter(-1, index, True)
        box = boxes.gather(-2, index[..., None].expand(*index.shape, 4))
        overlap = iou(box, boxes).squeeze(-2)  # (*n, 1, N) -> (*n, N)
        if rule == "linear":
            decay = torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            decay = torch.exp(-overlap.square() / sigma)
        scores = torch.where(chosen, scores, scores * decay)
    return torch.where(chosen, scores, 0.0)
