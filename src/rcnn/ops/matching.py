"""Which ground-truth box does an anchor or a proposal belong to?

Letters: B images, G ground-truth boxes (padded), N anchors or proposals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.ops.boxes import coverage, iou

CROWD_COVERAGE = 0.5
"""A box is 'in' a crowd region from this share of its area on."""


@dataclass(frozen=True)
class Matches:
    """The best ground-truth box of every candidate.

    Attributes:
        ious: with that box; 0 in an image without objects.
        indices: which box it is, among the G.
        in_crowd: whether the candidate lies in a crowd region.
    """

    ious: Float[Tensor, "B N"]
    indices: Int[Tensor, "B N"]
    in_crowd: Bool[Tensor, "B N"]


def masked_iou(
    gt_boxes: Float[Tensor, "B G 4"], learned: Bool[Tensor, "B G"], boxes: Float[Tensor, "*#B N 4"]
) -> Float[Tensor, "B G N"]:
    """Return the IoU of every ground-truth box with every candidate, 0 for boxes not learned."""
    return iou(gt_boxes, boxes.expand(len(gt_boxes), -1, -1)) * learned[:, :, None]


def best_match(
    ious: Float[Tensor, "B G N"],
    gt_boxes: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "*#B N 4"],
) -> Matches:
    """Match every candidate with the ground-truth box that it overlaps most (the first of equals).

    Args:
        ious: from :func:`masked_iou`.
        gt_boxes: ground truth.
        crowd: which of them are crowd regions.
        boxes: the candidates, the same for every image or one set each.
    """
    batch, _, count = ious.shape
    # (B, G, N) -> (B, G + 1, N): the zeros at the end let an image without objects have a best.
    padded = torch.cat([ious, ious.new_zeros(batch, 1, count)], dim=1)
    best, indices = padded.max(dim=1)
    # The stand-in is chosen only where nothing overlaps; the place of a real box is then as good.
    indices = indices.clamp(max=max(ious.shape[1] - 1, 0))
    in_crowd = torch.zeros_like(best, dtype=torch.bool)
    # Most minibatches have no crowd, and coverage takes longer than all else here. A CPU may look
    # first; a GPU would have to be waited for.
    if crowd.device.type != "cpu" or crowd.any():
        covered = coverage(boxes.expand(batch, -1, -1), gt_boxes)  # (B, N, G)
        in_crowd = ((covered >= CROWD_COVERAGE) & crowd[:, None, :]).any(dim=-1)
    return Matches(best, indices, in_crowd)


def is_low_quality_match(ious: Float[Tensor, "B G N"], within: float = 0.0) -> Bool[Tensor, "B N"]:
    """Return the candidates that some ground-truth box has no better candidate than, ties included.

    Args:
        ious: from :func:`masked_iou`; candidates that may not be chosen have 0.
        within: how far below a box's best IoU a candidate still counts (0: only the best).
    """
    best = ious.amax(dim=2, keepdim=True)
    return ((ious >= best - within) & (ious > 0)).any(dim=1)


def gather_boxes(
    gt_boxes: Float[Tensor, "B G 4"], indices: Int[Tensor, "B N"]
) -> Float[Tensor, "B N 4"]:
    """Return the ground-truth boxes at ``indices``, zeros where there is no ground truth at all."""
    if gt_boxes.shape[1] == 0:
        return gt_boxes.new_zeros(*indices.shape, 4)
    return gt_boxes.gather(1, indices[:, :, None].expand(-1, -1, 4))
