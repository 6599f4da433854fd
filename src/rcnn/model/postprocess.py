"""From the box head's output to detections (Fast R-CNN, section 3).

Letters: B images, R RoIs per image, K classes, D = K + 1 sets of deltas, or 1, N = R K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.boxes import at_least, clip, in_full, scale
from rcnn.ops.deltas import decode
from rcnn.ops.losses import Classifier, class_scores
from rcnn.ops.nms import best_of, soften, suppress
from rcnn.settings import require
from rcnn.structures import Detections, ImageBatch, Proposals


@dataclass(frozen=True)
class DetectionLimits:
    """Which of the scored boxes are detections.

    Attributes:
        score: a detection's probability is above this; under soft suppression, the decayed one.
        nms_iou: a box goes if it overlaps a better one of its class by more; under ``linear``
            suppression, its score decays from this IoU on.
        per_image: the most detections of an image.
        min_size: the shortest side of a detection, in pixels of the resized image.
        suppression: ``hard``: an overlapping box goes; ``linear`` or ``gaussian``: its score decays
            by a factor ``1 - IoU`` or ``exp(-IoU^2 / soft_sigma)`` (Bodla et al. 2017).
        soft_sigma: of ``gaussian``.
        refine: move proposals by the predicted deltas; without, they are classified as they are
            (Fast R-CNN, table 6: no test-time regression).
    """

    score: float = 0.05
    nms_iou: float = 0.3
    per_image: int = 100
    min_size: float = 0.0
    suppression: Literal["hard", "linear", "gaussian"] = "hard"
    soft_sigma: float = 0.5
    refine: bool = True

    def __post_init__(self) -> None:
        require(0 <= self.score < 1, "score", self.score, "it lies in 0..1, below 1")
        require(0 < self.nms_iou <= 1, "nms_iou", self.nms_iou, "it lies in 0..1, above 0")
        require(self.per_image >= 1, "per_image", self.per_image, "it is 1 or more")
        require(self.min_size >= 0, "min_size", self.min_size, "it is 0 or more pixels")
        require(self.soft_sigma > 0, "soft_sigma", self.soft_sigma, "it is above 0")


def postprocess(
    proposals: Proposals,
    logits: Float[Tensor, "B R K1"],
    deltas: Float[Tensor, "B R D 4"] | None,
    batch: ImageBatch,
    limits: DetectionLimits,
    class_names: tuple[str, ...],
    classifier: Classifier = "softmax",
) -> list[Detections]:
    """Decode the boxes of each class, and keep the good ones that do not repeat each other.

    Args:
        proposals: the RoIs.
        logits: background first.
        deltas: of background and each class, or one set for all, denormalised; or None.
        batch: for the sizes and scales of the images.
        limits: which boxes are detections.
        class_names: of the classes 1..K.
        classifier: what the logits mean.

    Returns:
        One set per image, best first, in pixels of the original images.
    """
    rois, classes = proposals.boxes.shape[1], logits.shape[2] - 1
    scores = class_scores(in_full(logits), classifier)
    boxes = proposals.boxes[:, :, None, :]
    if deltas is not None and limits.refine:
        boxes = decode(boxes, in_full(deltas[:, :, 1:] if deltas.shape[2] > 1 else deltas))
    boxes = clip(boxes, batch.sizes).expand(-1, -1, classes, -1)
    labels = torch.arange(1, classes + 1, device=scores.device).expand(len(scores), rois, -1)

    candidate = (scores > limits.score) & at_least(boxes, limits.min_size)
    candidate &= proposals.valid[:, :, None]
    if limits.suppression != "hard":
        # (B, R, K, ...) -> (B, K, R, ...) and back
        softened = soften(
            boxes.transpose(1, 2),
            torch.where(candidate, scores, 0.0).transpose(1, 2),
            limits.suppression,
            limits.nms_iou,
            limits.soft_sigma,
            limits.score,
            limits.per_image,
        )
        scores = softened.transpose(1, 2)
        candidate = scores > limits.score

    # (B, R, K, ...) -> (B, N, ...)
    boxes, scores, labels = boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1)
    candidate = candidate.flatten(1)
    if limits.suppression == "hard":
        kept, used = suppress(boxes, scores, labels, candidate, limits.nms_iou, limits.per_image)
    else:
        kept, used = best_of(scores, candidate, limits.per_image)

    original = scale(boxes.gather(1, kept[:, :, None].expand(-1, -1, 4)), 1 / batch.scales)
    original = clip(original, batch.original_sizes)  # what scaling rounds over the border
    scores, labels = scores.gather(1, kept), labels.gather(1, kept)
    return [
        Detections(original[i, used[i]], scores[i, used[i]], labels[i, used[i]], class_names)
        for i in range(len(used))
    ]
