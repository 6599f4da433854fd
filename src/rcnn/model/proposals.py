"""From the RPN's output to proposals (Faster R-CNN, section 3.3).

Letters: B images, L levels, A_l anchors of a level, N candidates, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from rcnn.ops.boxes import clip, first_on_grid, full_precision, sides_at_least
from rcnn.ops.deltas import decode
from rcnn.ops.nms import suppress
from rcnn.settings import FractionBelowOne, PositiveFraction, settings
from rcnn.structures import ImageBatch, Proposals


@settings
class ProposalSettings:
    """How many proposals an image has, and which.

    Attributes:
        before_nms_train: number of the best anchors of each level that enter suppression while
            training.
        after_nms_train: largest number of proposals per image while training.
        before_nms_test: as ``before_nms_train``, when detecting.
        after_nms_test: as ``after_nms_train``, when detecting.
        nms_iou: a proposal is suppressed if its IoU with a better one is above this.
        min_size: shortest side of a proposal, in pixels of the original image.
        score: lowest probability of "object".
        ablate_ranking: when detecting, draw proposals at random, the same ones for every image,
            instead of taking the best (Faster R-CNN, table 2: no cls). Suppression still applies;
            ``nms_iou=1`` suppresses nothing.
        ablate_regression: when detecting, anchors are proposals as they are, without the predicted
            deltas (Faster R-CNN, table 2: no reg).
        dedup_on_feature_grid: of given proposals, drop those that cover the same cells of the
            feature map as a better one (as in the released code of Fast R-CNN).
    """

    before_nms_train: PositiveInt = 12000
    after_nms_train: PositiveInt = 2000
    before_nms_test: PositiveInt = 6000
    after_nms_test: PositiveInt = 300
    nms_iou: PositiveFraction = 0.7
    min_size: NonNegativeFloat = 16.0
    score: FractionBelowOne = 0.0
    ablate_ranking: bool = False
    ablate_regression: bool = False
    dedup_on_feature_grid: bool = False


def propose(
    anchors: Float[Tensor, "A 4"],
    logits: Sequence[Float[Tensor, "B _"]],
    deltas: Sequence[Float[Tensor, "B _ 4"]],
    batch: ImageBatch,
    limits: ProposalSettings,
    *,
    train: bool,
) -> Proposals:
    """Decode, clip, filter and suppress the RPN's boxes.

    Only the best of each level are decoded, so what is too small is dropped after that choice, as
    torchvision does it; the released code of the paper drops first. Gradients flow through the
    coordinates.

    Args:
        anchors: anchors of all levels, one level after another.
        logits: log-odds of "object", for each level.
        deltas: box deltas, for each level.
        batch: sizes and scales of the images.
        limits: numbers and thresholds.
        train: apply the limits for training instead of those for detecting.
    """
    before = limits.before_nms_train if train else limits.before_nms_test
    after = limits.after_nms_train if train else limits.after_nms_test
    if limits.ablate_ranking and not train:
        logits = [_random_like(level) for level in logits]
    if limits.ablate_regression and not train:
        deltas = [torch.zeros_like(level) for level in deltas]

    # 1. The best of each level; only these are decoded.
    boxes, scores, groups = [], [], []
    per_level = anchors.split([level.shape[1] for level in logits])
    for number, (cells, logit, delta) in enumerate(zip(per_level, logits, deltas, strict=True)):
        top = logit.topk(min(before, logit.shape[1]), dim=1)
        chosen = delta.gather(1, top.indices[:, :, None].expand(-1, -1, 4))
        boxes.append(decode(cells[top.indices], full_precision(chosen)))
        scores.append(full_precision(top.values).sigmoid())
        groups.append(torch.full_like(top.indices, number))
    candidates = torch.cat(boxes, dim=1)  # (B, N, 4)
    objectness, group = torch.cat(scores, dim=1), torch.cat(groups, dim=1)

    # 2. Clip, and drop what is too small (16 pixels before resizing) or too unlikely to matter.
    candidates = clip(candidates, batch.sizes)
    shortest = limits.min_size * batch.scales.amin(dim=1, keepdim=True)
    wanted = sides_at_least(candidates, shortest) & (objectness >= limits.score)

    # 3. Suppress within each level, keep the best over all levels.
    kept, valid = suppress(candidates, objectness, group, wanted, limits.nms_iou, after)
    kept_boxes = candidates.gather(1, kept[:, :, None].expand(-1, -1, 4))
    return Proposals(
        boxes=torch.where(valid[:, :, None], kept_boxes, 0.0),
        scores=torch.where(valid, objectness.gather(1, kept), 0.0),
        valid=valid,
    )


def _random_like(logits: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """Return random scores, the same ones at every call."""
    scores = torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(0))
    return scores.to(logits).expand_as(logits)


def given_proposals(
    batch: ImageBatch, limits: ProposalSettings, stride: int, *, train: bool
) -> Proposals:
    """Choose among the proposals that came with the images, best first; none is suppressed.

    What lies outside of its image is cut off, as from the RPN's proposals. A cell of the feature
    map that is pooled from has ``stride`` pixels.

    Raises:
        ValueError: the batch has no proposals.
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
    wanted = given.valid & sides_at_least(inside, shortest)
    if limits.dedup_on_feature_grid:
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
