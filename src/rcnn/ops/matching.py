"""Matching of anchors and proposals with ground-truth boxes.

Letters: B images, G ground-truth boxes (padded), N candidates (anchors or proposals).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.ops.boxes import coverage, iou

CROWD_COVERAGE = 0.5
"""Smallest share of its area that a box "in" a crowd region has inside of it."""


@dataclass(frozen=True)
class Matches:
    """The best ground-truth box of every candidate.

    Attributes:
        ious: IoU of the candidate with its best box; 0 in an image without objects.
        indices: index of the best box, 0..G - 1.
        in_crowd: whether the candidate lies in a crowd region.
    """

    ious: Float[Tensor, "B N"]
    indices: Int[Tensor, "B N"]
    in_crowd: Bool[Tensor, "B N"]


def masked_iou(
    gt_boxes: Float[Tensor, "B G 4"],
    is_target: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "*#B N 4"],
) -> Float[Tensor, "B G N"]:
    """Return the IoU of every ground-truth box with every candidate, 0 for boxes of no target.

    The candidates are the same for every image, or one set each.
    """
    return iou(gt_boxes, boxes.expand(len(gt_boxes), -1, -1)) * is_target[:, :, None]


def best_match(
    ious: Float[Tensor, "B G N"],
    gt_boxes: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "*#B N 4"],
) -> Matches:
    """Return the ground-truth box of the largest IoU (the first of equals) for every candidate.

    Args:
        ious: result of ``masked_iou``.
        gt_boxes: ground-truth boxes.
        crowd: ground-truth boxes that are crowd regions.
        boxes: candidates, the same for every image or one set each.
    """
    batch, _, count = ious.shape
    # (B, G, N) -> (B, G + 1, N): the last row of zeros gives an image without objects a maximum.
    padded = torch.cat([ious, ious.new_zeros(batch, 1, count)], dim=1)
    best, indices = padded.max(dim=1)
    # That row is chosen only where nothing overlaps; the index of any real box will do there.
    indices = indices.clamp(max=max(gt_boxes.shape[1] - 1, 0))
    in_crowd = torch.zeros_like(best, dtype=torch.bool)
    # Most minibatches have no crowd, and coverage takes longer than all else here. A CPU can look
    # at the flags first; on a GPU that would wait for the device.
    if crowd.device.type != "cpu" or crowd.any():
        covered = coverage(boxes.expand(batch, -1, -1), gt_boxes)  # (B, N, G)
        in_crowd = ((covered >= CROWD_COVERAGE) & crowd[:, None, :]).any(dim=-1)
    return Matches(best, indices, in_crowd)


def is_low_quality_match(ious: Float[Tensor, "B G N"], margin: float = 0.0) -> Bool[Tensor, "B N"]:
    """Return which candidates have the largest IoU with some ground-truth box, ties included.

    Their IoU may be below the threshold of a positive (Faster R-CNN, section 3.1.2, i).

    Args:
        ious: result of ``masked_iou``, 0 for candidates that cannot be chosen.
        margin: largest difference to the best IoU of a box; 0: only the best.
    """
    best = ious.amax(dim=2, keepdim=True)
    return ((ious >= best - margin) & (ious > 0)).any(dim=1)


def gather_boxes(
    gt_boxes: Float[Tensor, "B G 4"], indices: Int[Tensor, "B N"]
) -> Float[Tensor, "B N 4"]:
    """Return the ground-truth boxes at ``indices``; zeros if G is 0."""
    if gt_boxes.shape[1] == 0:
        return gt_boxes.new_zeros(*indices.shape, 4)
    return gt_boxes.gather(1, indices[:, :, None].expand(-1, -1, 4))
