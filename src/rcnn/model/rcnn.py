"""R-CNN: every region passes the whole network by itself (Girshick et al. 2014).

What Fast R-CNN is faster than: nothing is shared between the regions of an image. Apart from
that, the two are trained alike here, at once and with the same losses; the paper's support vector
machines and separate box regressors are left out.

Letters: B images, (H, W) of the batch, R RoIs per image, C channels, S side of a pooled RoI.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rcnn.model.compatibility import warping_backbone
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.proposals import given_proposals
from rcnn.model.roi_heads import Pool, evaluating
from rcnn.model.roi_pooling import warp_regions
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import area
from rcnn.structures import ImageBatch, Proposals


class RCNN(FastRCNN):
    """Regions of the image, warped, each pushed through convolutions, tail and head.

    Args:
        settings: of all stages; those of anchors and RPN are not used, of the limits of proposals
            not those of suppression, and of the pooling the size alone.

    Raises:
        SettingsError: if the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings, warping_backbone(settings))

    def pooling(self, batch: ImageBatch) -> Pool:
        """Return what gives the features of RoIs; the images as such are not looked at."""
        return partial(self._look, self.images.normalise(batch))

    def _look(
        self, pixels: Float[Tensor, "B 3 H W"], rois: Float[Tensor, "B R 4"]
    ) -> Float[Tensor, "B*R C S S"]:
        # (B, R, 4) -> (B R, 4)
        regions = rois.flatten(0, 1)
        images = torch.arange(len(rois), device=rois.device).repeat_interleave(rois.shape[1])
        used = area(regions) > 0
        if torch.is_grad_enabled():
            # Places without a region, which only an image without proposals has, show one of the
            # others and do not count. To leave them out, a GPU would have to be waited for.
            place = torch.arange(len(used), device=used.device)
            shown = torch.where(used, place, used.long().argmax())
            pooled = self._features(pixels, regions[shown], images[shown])
            return torch.where(used[:, None, None, None], pooled, 0.0)
        # Here most places may be empty, and a look at one would cost as much as at a region.
        places = used.nonzero().squeeze(1)
        # Batch norms in training would mix the regions of a chunk, and count them.
        with evaluating(self.body):
            chunks = places.split(self.settings.warp.chunk)
            parts = [self._features(pixels, regions[some], images[some]) for some in chunks]
        pooled = torch.cat(parts)
        everywhere = pooled.new_zeros(len(regions), *pooled.shape[1:])
        return everywhere.index_copy(0, places, pooled)

    def _features(self, pixels: Tensor, regions: Tensor, images: Tensor) -> Tensor:
        """Return the pooled features of regions; of VGG-16 at 224 pixels these are its pool5."""
        warped = warp_regions(pixels, regions, images, self.settings.warp)
        return F.adaptive_max_pool2d(self.body(warped)[0], self.settings.pooling.size)

    def _choose(self, batch: ImageBatch, *, train: bool) -> Proposals:
        # Without a common feature map, only regions of the same pixels look the same.
        return given_proposals(batch, self.settings.proposals, stride=1, train=train)
