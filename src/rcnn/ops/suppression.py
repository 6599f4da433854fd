"""Non-maximum suppression, exact and greedy, for a whole minibatch.

Letters: B images, N boxes of an image, P places for those that are kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms


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
    places = min(limit, count)
    image = torch.arange(batch, device=boxes.device)
    taking_part = valid.flatten().nonzero().squeeze(1)
    separate = groups + image[:, None] * (groups.max() + 1 if groups.numel() else 1)
    # Each group is moved to a place of its own, which costs digits: float32 has too few for the
    # classes of a large batch, so that an image's result would depend on its neighbours.
    precise = torch.float32 if boxes.device.type == "mps" else torch.float64
    kept = taking_part[
        batched_nms(
            boxes.reshape(-1, 4)[taking_part].detach().to(precise),
            scores.flatten()[taking_part].detach().to(precise),
            separate.flatten()[taking_part],
            iou_threshold,
        )
    ]
    return _pack(kept, batch, count, places)


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
