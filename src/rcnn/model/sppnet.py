"""SPP-net: a pyramid of bins on shared convolutions that are never trained (He et al. 2014).

The step between R-CNN and Fast R-CNN: an image passes the convolutions once, but only the fully
connected layers are fine-tuned (the reason is in Fast R-CNN, sections 1.1 and 2.3).
"""

from __future__ import annotations

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.settings import require


class SPPNet(FastRCNN):
    """Frozen convolutions once per image, a pyramid of bins, and fully connected layers.

    Args:
        settings: settings of all stages, see ``FastRCNN``; the pooling is a pyramid.

    Raises:
        SettingsError: the pooling is another, or the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        allowed = (
            "model=sppnet pools a pyramid of bins, pooling.kind=pyramid; model=fast_rcnn pools in "
            "other ways, and backbone.frozen_stages freezes convolutions there, too"
        )
        kind = settings.pooling.kind
        require(kind == "pyramid", "pooling.kind", kind, allowed)
        super().__init__(settings)
        self.backbone.freeze()
