"""How many objects the proposals cover, whatever the class.

Letters: D proposals of one image, best first, G objects of one image, T overlap thresholds,
L limits of proposals per image.

An image's recall depends on that image only, so ``update`` matches and the state is a few counts:
an evaluation keeps no boxes, however many proposals there are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.metrics.inputs import DetectionMetric, Images, read_update
from rcnn.metrics.matching import iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
NEVER = np.iinfo(np.int64).max


def claiming_ranks(
    overlaps: Float[np.ndarray, "D G"], thresholds: Float[np.ndarray, " T"]
) -> Int[np.ndarray, "T G"]:
    """Return the rank (0 is best) of the proposal that claims each object, NEVER if none does.

    COCO's rule: from the best proposal on, each claims the free object that it overlaps most (the
    last of equals), if by the threshold. Those before rank k are therefore what a limit of k
    proposals would claim.

    Args:
        overlaps: IoU, one row per proposal, best first.
        thresholds: each gives a matching of its own.
    """
    num_objects = overlaps.shape[1]
    ranks = np.full((len(thresholds), num_objects), NEVER)
    candidates = np.flatnonzero((overlaps >= thresholds.min()).any(axis=1))
    overlaps = overlaps[candidates]
    possible = overlaps >= thresholds[:, None, None]  # T D G
    each = np.arange(len(thresholds))
    # One round finds for every threshold the next proposal that claims anything, so there are
    # at most as many rounds as objects, not as proposals.
    while possible.any():
        first = possible.any(axis=2).argmax(axis=1)  # T
        reached = np.where(possible[each, first], overlaps[first], -1.0)  # T G
        claimed = num_objects - 1 - reached[:, ::-1].argmax(axis=1)  # T
        claims = possible[each, first, claimed]
        ranks[each[claims], claimed[claims]] = candidates[first[claims]]
        possible[each[claims], first[claims], :] = False
        possible[each[claims], :, claimed[claims]] = False
    return ranks


class ProposalRecall(DetectionMetric):
    """Average recall of class-agnostic proposals, in 0..1.

    ``compute()`` returns, for each limit k, ``recall_<k>``: the share of objects that the k best
    proposals of each image cover, averaged over IoU 0.5:0.05:0.95; and ``recall_<k>_50``, the same
    at IoU 0.5. Without any object they are NaN. Objects marked ``ignore`` or ``crowd`` take no
    part. The matching is one-to-one by COCO's rule (``claiming_ranks``), so the numbers equal
    pycocotools' AR with ``useCats = 0`` and ``maxDets = limits``.

    Source: Hosang et al., What makes for effective detection proposals?, PAMI 2016, section 5.

    Args:
        limits: numbers of proposals per image.

    Raises:
        ValueError: there is no limit, or one is below 1.
    """

    found: Tensor
    num_objects: Tensor

    def __init__(self, limits: Sequence[int] = (100, 300, 1000)) -> None:
        super().__init__()
        if not limits or min(limits) < 1:
            raise ValueError(f"limits is {limits!r}: give whole numbers from 1 on.")
        self.limits = tuple(limits)
        found = torch.zeros((len(self.limits), len(IOU_THRESHOLDS)), dtype=torch.int64)
        self.add_state("found", default=found, dist_reduce_fx="sum")
        num_objects = torch.zeros((), dtype=torch.int64)
        self.add_state("num_objects", default=num_objects, dist_reduce_fx="sum")

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4) and ``scores`` (N,), in any order.
            targets: per image ``boxes`` (M, 4), if wanted ``ignore`` (M,), ``crowd`` (M,) bool.

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's position.
        """
        proposals, objects = read_update(predictions, targets, num_classes=None)
        images = zip(
            proposals.boxes.split(proposals.counts.tolist()),
            proposals.scores.split(proposals.counts.tolist()),
            objects.boxes.split(objects.counts.tolist()),
            objects.counted.split(objects.counts.tolist()),
            strict=True,
        )
        found = np.zeros(self.found.shape, dtype=np.int64)
        for boxes, scores, object_boxes, counted in images:
            best = scores.argsort(descending=True, stable=True)[: max(self.limits)]
            overlaps = iou(boxes[best].numpy()[:, None], object_boxes[counted].numpy()[None])
            ranks = claiming_ranks(overlaps, IOU_THRESHOLDS)
            found += np.stack([(ranks < limit).sum(axis=1) for limit in self.limits])
        self.found += torch.from_numpy(found).to(self.found.device)
        self.num_objects += int(objects.counted.sum())

    def compute(self) -> dict[str, Tensor]:
        """Return the recalls by name, see the class."""
        recall = self.found.float() / self.num_objects  # L T; 0 / 0 is NaN
        result = {}
        for limit, at_thresholds in zip(self.limits, recall, strict=True):
            result[f"recall_{limit}"] = at_thresholds.mean()
            result[f"recall_{limit}_50"] = at_thresholds[0]
        return result
