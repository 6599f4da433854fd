"""From the RPN's output to proposals (Faster R-CNN, section 3.3).

Letters: B images, L levels, A_l anchors of a level, N candidates, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.boxes import at_least, clip, first_on_grid, in_full
from rcnn.ops.deltas import decode
from rcnn.ops.nms import suppress
from rcnn.settings import require
from rcnn.structures import ImageBatch, Proposals


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals, and which.

    Attributes:
        before_nms_train: the best of each level that enter suppression while training.
        after_nms_train: the best of an image that leave it while training.
        before_nms_test: likewise when detecting.
        after_nms_test: likewise when detecting.
        nms_iou: a proposal goes if it overlaps a better one by more.
        min_size: the shortest side that stays, in pixels of the original image.
        score: the lowest probability of "object" that stays.
        rank_test: the best come first when detecting; without, any do, in an order by chance that
            is the same for every image, and what suppression leaves hangs on it: nms_iou=1 leaves
            all (Faster R-CNN, table 2: no cls).
        refine_test: anchors are moved by the predicted deltas when detecting; without, they are the
            proposals (Faster R-CNN, table 2: no reg).
        unique_on_grid: of given proposals those go that cover the same cells of the feature map
            as a better one (as in the released code of Fast R-CNN).
    """

    before_nms_train: int = 12000
    after_nms_train: int = 2000
    before_nms_test: int = 6000
    after_nms_test: int = 300
    nms_iou: float = 0.7
    min_size: float = 16.0
    score: float = 0.0
    rank_test: bool = True
    refine_test: bool = True
    unique_on_grid: bool = False

    def __post_init__(self) -> None:
        for key in ("before_nms_train", "after_nms_train", "before_nms_test", "after_nms_test"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "it is 1 or more")
        require(0 < self.nms_iou <= 1, "nms_iou", self.nms_iou, "it lies in 0..1, above 0")
        require(self.min_size >= 0, "min_size", self.min_size, "it is 0 or more pixels")
        require(0 <= self.score < 1, "score", self.score, "it lies in 0..1, below 1")


def propose(
    anchors: Float[Tensor, "A 4"],
    logits: Sequence[Float[Tensor, "B _"]],
    deltas: Sequence[Float[Tensor, "B _ 4"]],
    batch: ImageBatch,
    limits: ProposalLimits,
    *,
    train: bool,
) -> Proposals:
    """Decode, clip, filter and suppress the RPN's boxes.

    Only the best of each level are decoded, so what is too small is dropped after that choice, as
    torchvision does it; the released code of the paper drops first.

    Gradients flow through what is returned; a scheme that treats proposals as constants
    (approximate joint training) detaches its inputs.

    Args:
        anchors: of all levels.
        logits: of each level.
        deltas: of each level.
        batch: for the sizes and scales of the images.
        limits: how many, and which.
        train: which of the limits hold.
    """
    before = limits.before_nms_train if train else limits.before_nms_test
    after = limits.after_nms_train if train else limits.after_nms_test
    if not (train or limits.rank_test):
        logits = [_by_chance(level) for level in logits]
    if not (train or limits.refine_test):
        deltas = [torch.zeros_like(level) for level in deltas]

    # 1. The best of each level; only these are decoded.
    boxes, scores, groups = [], [], []
    per_level = anchors.split([level.shape[1] for level in logits])
    for number, (cells, logit, delta) in enumerate(zip(per_level, logits, deltas, strict=True)):
        top = logit.topk(min(before, logit.shape[1]), dim=1)
        chosen = delta.gather(1, top.indices[:, :, None].expand(-1, -1, 4))
        boxes.append(decode(cells[top.indices], in_full(chosen)))
        scores.append(in_full(top.values).sigmoid())
        groups.append(torch.full_like(top.indices, number))
    candidates = torch.cat(boxes, dim=1)  # (B, N, 4)
    objectness, group = torch.cat(scores, dim=1), torch.cat(groups, dim=1)

    # 2. Clip, and drop what is too small (16 pixels before resizing) or too unlikely to matter.
    candidates = clip(candidates, batch.sizes)
    shortest = limits.min_size * batch.scales.amin(dim=1, keepdim=True)
    wanted = at_least(candidates, shortest) & (objectness >= limits.score)

    # 3. Suppress within each level, keep the best over all levels.
    kept, valid = suppress(candidates, objectness, group, wanted, limits.nms_iou, after)
    kept_boxes = candidates.gather(1, kept[:, :, None].expand(-1, -1, 4))
    return Proposals(
        boxes=torch.where(valid[:, :, None], kept_boxes, 0.0),
        scores=torch.where(valid, objectness.gather(1, kept), 0.0),
        valid=valid,
    )


def _by_chance(logits: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """Return scores that say nothing, always the same ones."""
    chance = torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(0))
    return chance.to(logits).expand_as(logits)


def given_proposals(
    batch: ImageBatch, limits: ProposalLimits, stride: int, *, train: bool
) -> Proposals:
    """Choose among the proposals that came with the images; there is no suppression.

    What lies outside of its image is cut off, as from the RPN's proposals.

    Args:
        batch: with proposals, best first.
        limits: the number after suppression, the smallest size, and whether duplicates go.
        stride: pixels per cell of the feature map that is pooled from.
        train: which of the limits hold.

    Raises:
        ValueError: if the batch has no proposals.
    """
    given = batch.proposals
    if given is None:
        raise ValueError(
            "The images came without proposals, and this detector makes none. Make some with "
            "`rcnn propose`, and give their folder (proposals.folder=...) or, in Python, their "
            "boxes: detect(images, proposals)."
        )
    inside = clip(given.boxes, batch.sizes)
    shortest = limits.min_size * batch.scales.amin(dim=1, keepdim=True)
    wanted = given.valid & at_least(inside, shortest)
    if limits.unique_on_grid:
        wanted &= first_on_grid(inside, wanted, stride)
    # Those that are wanted come first, in their order; then the best of them.
    after = limits.after_nms_train if train else limits.after_nms_test
    order = (~wanted).long().argsort(dim=1, stable=True)[:, :after]
    valid = wanted.gather(1, order)
    boxes = inside.gather(1, order[:, :, None].expand(-1, -1, 4))
    return Proposals(
        boxes=torch.where(valid[:, :, None], boxes, 0.0),
        scores=torch.where(valid, given.scores.gather(1, order), 0.0),
        valid=valid,
    )
