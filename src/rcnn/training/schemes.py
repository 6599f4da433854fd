"""How the RPN and the box head learn together (Faster R-CNN, section 3.2).

``joint``: approximate joint training: all four losses at once, with proposals as constants.
``exact``: non-approximate joint training: the losses of the box head also move the proposals, by a
gradient through the coordinates of the RoIs: through the pooled features and the box targets.
"""

from __future__ import annotations

from typing import Literal

from rcnn.model.detector import FasterRCNN
from rcnn.settings import require

Scheme = Literal["joint", "exact"]


def check_scheme(scheme: Scheme, detector: FasterRCNN) -> None:
    """Refuse a scheme that the detector's pooling cannot carry out.

    Raises:
        SettingsError: naming the setting to change.
    """
    if scheme != "exact":
        return
    pooling = detector.settings.pooling
    allowed = "scheme=exact needs pooling=crop or pooling=roi_align, which move with the RoIs"
    require(pooling.kind != "roi_pool", "pooling.kind", pooling.kind, allowed)
    if pooling.kind == "roi_align":
        allowed = "scheme=exact needs a fixed number of samples, 1 or more"
        ratio = pooling.sampling_ratio
        require(ratio > 0, "pooling.sampling_ratio", ratio, allowed)
        allowed = "scheme=exact on a feature pyramid needs pooling=crop"
        require(detector.body.roi_levels == 1, "pooling.kind", pooling.kind, allowed)
