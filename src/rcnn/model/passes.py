"""What one pass through a detector brings forth, beside the losses or the detections.

Letters: A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rcnn.structures import AnchorSamples, Detections, Losses, Proposals, RoISamples


@dataclass(frozen=True)
class TrainingPass:
    """What a training step computed on its way to the losses; a part that did not run has none.

    Attributes:
        losses: the terms that are differentiated.
        proposals: what the RoIs were drawn from.
        rois: those that were drawn.
        anchors: of all levels.
        anchor_samples: those that were drawn.
    """

    losses: Losses
    proposals: Proposals | None = None
    rois: RoISamples | None = None
    anchors: Float[Tensor, "A 4"] | None = None
    anchor_samples: AnchorSamples | None = None


@dataclass(frozen=True)
class EvaluationPass:
    """What a validation step needs, from one pass through the backbone.

    Attributes:
        detections: of each image, in original pixels; None where only the RPN ran.
        proposals: what they were found among, in pixels of the resized images.
        losses: as a training step would have them, without gradients.
    """

    detections: list[Detections] | None
    proposals: Proposals
    losses: Losses
