"""How good the detections are: VOC AP, COCO AP, recall of proposals.

Each metric is a ``torchmetrics.Metric`` around pure functions. All of them take the same update:
``update(predictions, targets)``, two equally long lists with one dict of tensors per image, and
compute a dict of tensors by name.
"""

from rcnn.metrics.coco import COCOAveragePrecision
from rcnn.metrics.recall import ProposalRecall
from rcnn.metrics.voc import VOCAveragePrecision

__all__ = ["COCOAveragePrecision", "ProposalRecall", "VOCAveragePrecision"]
