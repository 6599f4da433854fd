"""All metrics of one split, from one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from rcnn.metrics.coco import COCOAveragePrecision
from rcnn.metrics.inputs import gather
from rcnn.metrics.recall import ProposalRecall
from rcnn.metrics.voc import VOCAveragePrecision
from rcnn.ops.boxes import scale
from rcnn.structures import Detections, GroundTruth, ImageBatch, Proposals


class Scores(nn.Module):
    """VOC's two average precisions, COCO's twelve numbers and the recall of the proposals.

    Args:
        class_names: the names of the classes 1..K.
        plus_one: VOC's IoU counts pixels inclusively, as its development kit does.
    """

    def __init__(self, class_names: Sequence[str], plus_one: bool = False) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.voc = VOCAveragePrecision(self.class_names, plus_one=plus_one)
        self.coco = COCOAveragePrecision(self.class_names)
        self.recall = ProposalRecall()

    def update(
        self,
        detections: Sequence[Detections] | None,
        ground_truths: Sequence[GroundTruth],
        proposals: Proposals | None = None,
        batch: ImageBatch | None = None,
    ) -> None:
        """Add the images of one minibatch.

        Args:
            detections: per image, in original pixels; None where no classes are detected.
            ground_truths: per image, in original pixels.
            proposals: in pixels of the resized images; None leaves the recall as it is.
            batch: the resized images of the proposals.
        """
        # Every metric works on the CPU: each tensor is fetched once, not once for each metric.
        ground_truths = [ground_truth.to("cpu") for ground_truth in ground_truths]
        targets = [
            {
                "boxes": ground_truth.boxes,
                "labels": ground_truth.labels,
                "ignore": ground_truth.difficult,
                "crowd": ground_truth.crowd,
                "area": ground_truth.areas,
            }
            for ground_truth in ground_truths
        ]
        if detections is not None:
            found = [
                {"boxes": one.boxes, "scores": one.scores, "labels": one.labels}
                for one in (one.to("cpu") for one in detections)
            ]
            self.voc.update(found, targets)
            self.coco.update(found, targets)
        if proposals is not None and batch is not None:
            original = scale(proposals.boxes, 1 / batch.scales).cpu()
            found = [
                {"boxes": boxes[valid], "scores": scores[valid]}
                for boxes, scores, valid in zip(
                    original, proposals.scores.cpu(), proposals.valid.cpu(), strict=True
                )
            ]
            self.recall.update(found, targets)

    def compute(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the headline numbers, and the average precisions of each class by name.

        Metrics that no process updated are left out.
        """
        values: dict[str, Tensor] = {}
        for metric, updated in zip(self._metrics, self._updated(), strict=True):
            if updated and not metric.update_called:
                metric.update([], [])  # other processes wait for this one's share
            if updated:
                values |= metric.compute()
        headline = {name: float(value) for name, value in values.items() if value.ndim == 0}
        if "map" not in values:
            return headline, {}
        tables = {
            "map": values["map_per_class"],
            "map_50": values["map_50_per_class"],
            "voc_ap": values["voc_ap_per_class"],
            "voc07_ap": values["voc07_ap_per_class"],
        }
        return headline, {
            name: {column: float(table[row]) for column, table in tables.items()}
            for row, name in enumerate(self.class_names)
        }

    def reset(self) -> None:
        """Forget all images."""
        for metric in self._metrics:
            metric.reset()

    @property
    def _metrics(self) -> tuple[VOCAveragePrecision | COCOAveragePrecision | ProposalRecall, ...]:
        return self.voc, self.coco, self.recall

    def _updated(self) -> list[bool]:
        """Return whether any process updated each of the metrics."""
        flags = torch.tensor([metric.update_called for metric in self._metrics], dtype=torch.uint8)
        if dist.is_available() and dist.is_initialized():
            flags = torch.stack(gather(flags)).amax(dim=0)
        return flags.bool().tolist()
