"""R-CNN: every region passes the whole network by itself (Girshick et al. 2014).

The baseline that Fast R-CNN is faster than: the regions of an image share nothing. Apart from that
both are trained alike here, at once and with the same losses; the paper's support vector machines
and separate box regressors are left out.

Letters: B images, (H, W) of the batch, R RoIs per image, N = B R, C channels, S side of a pooled
RoI.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.profiler import record_function

from rcnn.model.backbones import Backbone, SplitNetwork, build_network
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.proposals import given_proposals
from rcnn.model.roi_heads import eval_mode
from rcnn.model.roi_pooling import WarpSettings
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import area
from rcnn.ops.roi_pooling import warp_regions
from rcnn.settings import require
from rcnn.structures import ImageBatch, Proposals


class RegionWarper:
    """R-CNN's pooler: warps each RoI of the image and takes its features from the network's output.

    Args:
        backbone: network that every warped region passes.
        warp: sizes of the warped regions.
        size: S.
    """

    def __init__(self, backbone: Backbone, warp: WarpSettings, size: int) -> None:
        self.backbone = backbone
        self.warp = warp
        self.size = size

    def __call__(
        self, features: Sequence[Float[Tensor, "B 3 H W"]], rois: Float[Tensor, "B R 4"]
    ) -> Float[Tensor, "B*R C S S"]:
        """Return the features of every RoI; ``features`` are the normalised images themselves."""
        (pixels,) = features
        regions = rois.flatten(0, 1)  # (B, R, 4) -> (N, 4)
        images = torch.arange(len(rois), device=rois.device).repeat_interleave(rois.shape[1])
        used = area(regions) > 0
        if torch.is_grad_enabled():
            # A slot without a region, which only an image without proposals has, shows another
            # region and does not count. Leaving it out would wait for a GPU.
            slot = torch.arange(len(used), device=used.device)
            shown = torch.where(used, slot, used.long().argmax())
            pooled = self._features(pixels, regions[shown], images[shown])
            return torch.where(used[:, None, None, None], pooled, 0.0)
        # When detecting most slots may be empty, and an empty one costs as much as a region.
        slots = used.nonzero().squeeze(1)
        # Batch norms in training mode would mix the regions of a chunk, and count them.
        with eval_mode(self.backbone):
            chunks = slots.split(self.warp.chunk)
            pooled = torch.cat([self._features(pixels, regions[c], images[c]) for c in chunks])
        everywhere = pooled.new_zeros(len(regions), *pooled.shape[1:])
        return everywhere.index_copy(0, slots, pooled)

    def _features(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        regions: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
    ) -> Float[Tensor, "N C S S"]:
        """Return the pooled features of regions; of VGG-16 at 224 pixels these are its pool5."""
        with record_function("roi pooling"):
            warped = warp_regions(pixels, regions, images, self.warp.size, self.warp.context)
        with record_function("backbone"):
            levels = self.backbone(warped)
        return F.adaptive_max_pool2d(levels[0], self.size)


class RCNN(FastRCNN):
    """Regions of the image, warped, each pushed through convolutions and box head.

    Args:
        settings: settings of all stages; those of anchors, RPN and the suppression of proposals
            are not used, and of the pooling the size alone.

    Raises:
        SettingsError: the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        network = _build_network(settings)
        pooler = RegionWarper(network.backbone, settings.warp, settings.pooling.size)
        super().__init__(settings, network, pooler)

    def extract_features(self, batch: ImageBatch) -> list[Float[Tensor, "B 3 H W"]]:
        """Return the normalised images: nothing is computed once per image."""
        return [self.transform.normalise(batch)]

    def select_proposals(self, batch: ImageBatch, *, train: bool) -> Proposals:
        """Return those of the batch's proposals that are used, best first."""
        # Without a common feature map, only regions of the same pixels look the same.
        return given_proposals(batch, self.settings.proposals, stride=1, train=train)


def _build_network(settings: DetectorSettings) -> SplitNetwork:
    """Build the network that every region passes; refuse one that does not fit its size."""
    kind = settings.pooling.kind
    allowed = "model=rcnn has one feature map per region; only model=sppnet pools a pyramid"
    require(kind != "pyramid", "pooling.kind", kind, allowed)
    network = build_network(settings.backbone, settings.pooling.cells)
    levels = network.backbone.roi_levels
    allowed = (
        f"it has {levels} feature maps, and model=rcnn takes a region's features from one. "
        "Choose a backbone without feature pyramid, such as resnet18 or vgg16, or model=fast_rcnn"
    )
    require(levels == 1, "backbone.name", settings.backbone.name, allowed)
    size, side, stride = settings.warp.size, settings.pooling.size, network.backbone.strides[0]
    allowed = (
        f"at the backbone's stride of {stride} it gives fewer than the {side} cells of "
        f"pooling.size; it should be {side * stride} or more"
    )
    require(size >= side * stride, "warp.size", size, allowed)
    return network
