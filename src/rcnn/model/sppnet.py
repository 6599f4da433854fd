"""SPP-net: a pyramid of bins on shared convolutions that never learn (He et al. 2014).

Its convolutions are those of the network that it starts from: the gradient of a region would have
to flow through most of an image, which, with every region from another image, did not pay (Fast
R-CNN, section 2.3). Here the two are trained alike, with the same samples and losses; the paper's
support vector machines and separate box regressors are left out.
"""

from __future__ import annotations

import torch

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.roi_heads import Pool
from rcnn.model.settings import DetectorSettings
from rcnn.settings import require
from rcnn.structures import ImageBatch


class SPPNet(FastRCNN):
    """Convolutions once on the image, frozen, then a pyramid of bins and fully connected layers.

    Args:
        settings: of all stages, see :class:`FastRCNN`; the pooling is a pyramid.

    Raises:
        SettingsError: if the pooling is another, or the settings of two stages do not fit each
            other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        allowed = (
            "model=sppnet pools a pyramid of bins, pooling.kind=pyramid; model=fast_rcnn pools in "
            "other ways, and backbone.frozen_stages freezes convolutions there, too"
        )
        kind = settings.pooling.kind
        require(kind == "pyramid", "pooling.kind", kind, allowed)
        super().__init__(settings)
        self.body.freeze()

    def pooling(self, batch: ImageBatch) -> Pool:
        """Look at the images, without a graph, and return what gives the features of RoIs."""
        with torch.no_grad():
            return super().pooling(batch)
