"""The multi-task loss: two terms of the RPN, two of the box head.

Letters: B images, A anchors, S sampled anchors, R RoIs, D sets of deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.losses import (
    classification_loss,
    deltas_of_class,
    masked_box_loss,
    objectness_loss,
)
from rcnn.ops.precision import in_full
from rcnn.settings import require
from rcnn.structures import AnchorSamples, RoISamples


@dataclass(frozen=True)
class LossSettings:
    """Weights, knees and divisors.

    Attributes:
        rpn_box_weight: lambda of Faster R-CNN, equation 1.
        rpn_box_beta: knee of smooth-L1; Caffe's sigma 3 is 1/9.
        rpn_box_divisor: ``samples``: the number of sampled anchors, as the released code has it;
            ``locations``: the number of cells, about 2400, as the paper has it with lambda 10.
        roi_box_weight: lambda of Fast R-CNN, equation 1.
        roi_box_beta: knee of smooth-L1.
    """

    rpn_box_weight: float = 1.0
    rpn_box_beta: float = 1 / 9
    rpn_box_divisor: Literal["samples", "locations"] = "samples"
    roi_box_weight: float = 1.0
    roi_box_beta: float = 1.0

    def __post_init__(self) -> None:
        for key in ("rpn_box_weight", "roi_box_weight"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "it is 0 or more")
        for key in ("rpn_box_beta", "roi_box_beta"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "it is 0 (plain L1) or more")


def rpn_losses(
    logits: Float[Tensor, "B A"],
    deltas: Float[Tensor, "B A 4"],
    samples: AnchorSamples,
    locations: int,
    settings: LossSettings,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the objectness and the box term (Faster R-CNN, equation 1).

    Args:
        logits: of all anchors.
        deltas: of all anchors.
        samples: which anchors count, and their targets.
        locations: the number of cells of an image.
        settings: weights and divisors.
    """
    sampled_logits = in_full(logits.gather(1, samples.indices))
    sampled_deltas = in_full(deltas.gather(1, samples.indices[:, :, None].expand(-1, -1, 4)))
    divisor = (samples.labels >= 0).sum()
    if settings.rpn_box_divisor == "locations":
        divisor = torch.full_like(divisor, locations * len(logits))
    boxes = masked_box_loss(
        sampled_deltas, samples.deltas, samples.labels, settings.rpn_box_beta, divisor
    )
    return objectness_loss(sampled_logits, samples.labels), settings.rpn_box_weight * boxes


def roi_losses(
    logits: Float[Tensor, "B R K1"],
    deltas: Float[Tensor, "B R D 4"],
    rois: RoISamples,
    settings: LossSettings,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the class and the box term (Fast R-CNN, equation 1)."""
    boxes = masked_box_loss(
        deltas_of_class(in_full(deltas), rois.labels),
        rois.deltas,
        rois.labels,
        settings.roi_box_beta,
        (rois.labels >= 0).sum(),
    )
    return classification_loss(in_full(logits), rois.labels), settings.roi_box_weight * boxes
