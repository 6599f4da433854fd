"""Which detections are right and which objects were found, at one IoU.

Letters: N detections, M objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from rcnn.ops.boxes import coverage, iou
from rcnn.structures import Detections, GroundTruth


@dataclass(frozen=True)
class Outcomes:
    """What became of the detections and of the objects of one image.

    Attributes:
        correct: detections that found an object, each object by its best detection only.
        ignored: detections of difficult objects or in a crowd, neither right nor wrong.
        found: objects that a correct detection found.
    """

    correct: Bool[Tensor, " N"]
    ignored: Bool[Tensor, " N"]
    found: Bool[Tensor, " M"]


def judge(detections: Detections, ground_truth: GroundTruth, minimum_iou: float = 0.5) -> Outcomes:
    """Match detections with objects of their class, best score first (COCO's rule at one IoU).

    A detection takes the free object that it overlaps most. One that overlaps only difficult
    objects, or lies with at least ``minimum_iou`` of its area inside a crowd, is ignored; any
    other one without an object is wrong, a second detection of one object too.
    """
    same_class = detections.labels[:, None] == ground_truth.labels
    overlaps = iou(detections.boxes, ground_truth.boxes) * same_class
    inside = coverage(detections.boxes, ground_truth.boxes) * same_class
    in_crowd = (inside * ground_truth.crowd).ge(minimum_iou).any(1)
    on_difficult = (overlaps * ground_truth.difficult).ge(minimum_iou).any(1)
    overlaps = overlaps * ~(ground_truth.difficult | ground_truth.crowd)

    correct = torch.zeros_like(detections.labels, dtype=torch.bool)
    found = torch.zeros_like(ground_truth.labels, dtype=torch.bool)
    if len(ground_truth) > 0:
        for row in detections.scores.argsort(descending=True, stable=True).tolist():
            best, place = (overlaps[row] * ~found).max(0)
            if best >= minimum_iou:
                correct[row] = found[place] = True
    return Outcomes(correct, (in_crowd | on_difficult) & ~correct, found)
