"""How many objects the proposals cover, whatever the class.

Letters: T IoU thresholds, L limits of proposals per image.

The recall of an image depends on that image only, so ``update`` matches and the state is a few
counts: an evaluation keeps no boxes, however many proposals there are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rcnn.metrics.inputs import DetectionMetric, Images, read_update
from rcnn.metrics.matching import IOU_THRESHOLDS, match, overlapping_pairs, ranks_of


class ProposalRecall(DetectionMetric):
    """Average recall of class-agnostic proposals, in 0..1.

    ``compute()`` returns, for each limit k, ``recall_<k>``: the share of objects that the k best
    proposals of each image cover, averaged over IoU 0.5:0.05:0.95; and ``recall_<k>_50``, the same
    at IoU 0.5. Without any object they are NaN. Objects marked ``ignore`` or ``crowd`` take no
    part. The matching is one-to-one by COCO's rule (``rcnn.metrics.matching.match``), so the
    numbers equal pycocotools' AR with ``useCats = 0`` and ``maxDets = limits``.

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
            ValueError: a key is missing or a value is wrong; names it and the image's index.
        """
        proposals, objects = read_update(predictions, targets, num_classes=None)
        ranked, _ = proposals.ranked()
        ranks, counted = ranks_of(ranked), objects.counted.numpy()
        pairs = overlapping_pairs(ranked, objects, IOU_THRESHOLDS.min())
        pairs = pairs.take(counted[pairs.objects])
        # The best k proposals take what they take among all, so one matching serves every limit.
        takes = match(pairs, len(ranks), ~counted, ~counted, IOU_THRESHOLDS) >= 0
        found = np.stack([takes[:, ranks < limit].sum(axis=1) for limit in self.limits])
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
