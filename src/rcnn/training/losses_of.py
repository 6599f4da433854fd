"""How the RPN and the box head learn together (Faster R-CNN, section 3.2).

``joint``: approximate joint training: all losses at once, with proposals as constants.
``exact``: non-approximate joint training: the losses of the box head also move the proposals, by a
gradient through the coordinates of the RoIs: through the pooled features and the box targets.
"""

from __future__ import annotations

from typing import Literal

import torch

from rcnn.model.build import Detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import SettingsError, require
from rcnn.structures import ImageBatch, Losses, Targets

Scheme = Literal["joint", "exact"]


def losses_of(
    scheme: Scheme,
    detector: Detector,
    batch: ImageBatch,
    targets: Targets,
    generator: torch.Generator,
) -> Losses:
    """Return the losses of a training step under the scheme."""
    if scheme == "exact" and isinstance(detector, FasterRCNN):
        return detector.losses(batch, targets, generator, exact=True)
    return detector.losses(batch, targets, generator)


def check_scheme(scheme: Scheme, detector: Detector) -> None:
    """Refuse a scheme that the detector cannot carry out.

    Raises:
        SettingsError: naming the setting to change.
    """
    if scheme != "exact":
        return
    if not isinstance(detector, FasterRCNN):
        raise SettingsError(
            f"scheme='exact' is not possible: {type(detector).__name__} does not find and classify "
            "regions at once. It needs model=faster_rcnn; other systems take scheme=joint."
        )
    pooling = detector.settings.pooling
    allowed = "scheme=exact needs pooling=crop or pooling=roi_align, which move with the RoIs"
    moves = pooling.kind in ("crop", "roi_align")
    require(moves, "pooling.kind", pooling.kind, allowed)
    if pooling.kind == "roi_align":
        allowed = "scheme=exact needs a fixed number of samples, 1 or more"
        ratio = pooling.sampling_ratio
        require(ratio > 0, "pooling.sampling_ratio", ratio, allowed)
        allowed = "scheme=exact on a feature pyramid needs pooling=crop"
        require(detector.backbone.roi_levels == 1, "pooling.kind", pooling.kind, allowed)
