"""From the box head's output to detections (Fast R-CNN, section 3).

Letters: B images, R RoIs per image, K classes, D = K + 1 sets of deltas, or 1, N = R K candidates.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rcnn.ops.boxes import clip, full_precision, scale, sides_at_least
from rcnn.ops.deltas import decode
from rcnn.ops.losses import Classifier, class_scores
from rcnn.ops.nms import soft_nms, suppress, topk
from rcnn.settings import FractionBelowOne, PositiveFraction, settings
from rcnn.structures import Detections, ImageBatch, Proposals


@settings
class DetectionSettings:
    """Which of the scored boxes are detections.

    Attributes:
        score: a detection's probability is above this (with soft suppression, the decayed one).
        nms_iou: a box is suppressed if its IoU with a better one of its class is above this; with
            ``linear`` suppression its score decays from this IoU on.
        per_image: largest number of detections per image.
        min_size: shortest side of a detection, in pixels of the resized image.
        suppression: ``hard`` drops an overlapping box; ``linear`` and ``gaussian`` multiply its
            score by ``1 - IoU`` or ``exp(-IoU^2 / soft_sigma)`` (Bodla et al. 2017).
        soft_sigma: width of ``gaussian``.
        ablate_regression: proposals are the boxes, without the predicted deltas (Fast R-CNN,
            table 6: no test-time regression).
    """

    score: FractionBelowOne = 0.05
    nms_iou: PositiveFraction = 0.3
    per_image: PositiveInt = 100
    min_size: NonNegativeFloat = 0.0
    suppression: Literal["hard", "linear", "gaussian"] = "hard"
    soft_sigma: PositiveFloat = 0.5
    ablate_regression: bool = False


def postprocess(
    proposals: Proposals,
    logits: Float[Tensor, "B R K1"],
    deltas: Float[Tensor, "B R D 4"] | None,
    batch: ImageBatch,
    limits: DetectionSettings,
    class_names: tuple[str, ...],
    classifier: Classifier = "softmax",
) -> list[Detections]:
    """Decode the boxes of each class, and keep the good ones that do not repeat each other.

    Args:
        proposals: RoIs, in pixels of the resized images.
        logits: class logits, background first.
        deltas: box deltas, not normalised, one set for background and each class or one for all;
            None without box regression.
        batch: sizes and scales of the images.
        limits: thresholds and numbers.
        class_names: names of the classes 1..K.
        classifier: kind of classifier that the logits belong to.

    Returns:
        One set per image, best first, in pixels of the original images.
    """
    rois, classes = proposals.boxes.shape[1], logits.shape[2] - 1
    scores = class_scores(full_precision(logits), classifier)
    boxes = proposals.boxes[:, :, None, :]
    if deltas is not None and not limits.ablate_regression:
        boxes = decode(boxes, full_precision(deltas[:, :, 1:] if deltas.shape[2] > 1 else deltas))
    boxes = clip(boxes, batch.sizes).expand(-1, -1, classes, -1)
    labels = torch.arange(1, classes + 1, device=scores.device).expand(len(scores), rois, -1)

    candidate = (scores > limits.score) & sides_at_least(boxes, limits.min_size)
    candidate &= proposals.valid[:, :, None]
    if limits.suppression != "hard":
        # (B, R, K, ...) -> (B, K, R, ...) and back
        softened = soft_nms(
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
        kept, used = topk(scores, candidate, limits.per_image)

    original = scale(boxes.gather(1, kept[:, :, None].expand(-1, -1, 4)), 1 / batch.scales)
    original = clip(original, batch.original_sizes)  # what scaling rounds over the border
    scores, labels = scores.gather(1, kept), labels.gather(1, kept)
    return [
        Detections(original[i, used[i]], scores[i, used[i]], labels[i, used[i]], class_names)
        for i in range(len(used))
    ]
