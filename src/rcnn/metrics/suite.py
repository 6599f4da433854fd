"""All metrics of one split, from one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision
from rcnn.ops.boxes import scale
from rcnn.structures import Detections, GroundTruth, ImageBatch, Proposals


class Scores(nn.Module):
    """VOC's two average precisions, COCO's twelve numbers and the recall of the proposals.

    Args:
        class_names: of the classes 1..K.
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
        """Add the images of one minibatch; all boxes in original pixels but the proposals'."""
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
            regions = [
                {"boxes": boxes[valid], "scores": scores[valid]}
                for boxes, scores, valid in zip(
                    original, proposals.scores.cpu(), proposals.valid.cpu(), strict=True
                )
            ]
            self.recall.update(regions, targets)

    def compute(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the headline numbers, and the average precisions of each class by name."""
        values: dict[str, Tensor] = {}
        if self.voc.update_called:
            values |= {**self.voc.compute(), **self.coco.compute()}
        if self.recall.update_called:
            values |= self.recall.compute()
        headline = {name: float(value) for name, value in values.items() if value.ndim == 0}
        return headline, self._per_class(values) if self.voc.update_called else {}

    def reset(self) -> None:
        """Forget all images."""
        for metric in (self.voc, self.coco, self.recall):
            metric.reset()

    def _per_class(self, values: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        columns = {
            "map": values["map_per_class"],
            "map_50": values["map_50_per_class"],
            "voc_ap": values["voc_ap_per_class"],
            "voc07_ap": values["voc07_ap_per_class"],
        }
        return {
            name: {column: float(table[row]) for column, table in columns.items()}
            for row, name in enumerate(self.class_names)
        }
