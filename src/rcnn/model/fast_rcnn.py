"""Fast R-CNN, put together from its stages."""

from __future__ import annotations

import torch
from torch import nn

from rcnn.model.backbones import build_backbone
from rcnn.model.images import ImageTransform
from rcnn.model.region_stage import RegionStage
from rcnn.model.settings import DetectorSettings
from rcnn.structures import Detections, ImageBatch, Losses, Proposals, SampleCounts, Targets


class FastRCNN(nn.Module):
    """Fast R-CNN: the region stage on proposals that come from outside.

    Args:
        settings: of all stages; those of anchors, RPN and proposal limits are not used.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        backbone = build_backbone(settings.backbone, settings.pooling.cells)
        self.images = ImageTransform(settings.images)
        self.body = backbone.body
        self.regions = RegionStage(settings, backbone)

    def losses(
        self,
        batch: ImageBatch,
        targets: Targets,
        proposals: Proposals,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Return the class and the box loss of a minibatch.

        Args:
            batch: resized, padded images.
            targets: their ground truth, in pixels of the resized images.
            proposals: in pixels of the resized images.
            generator: the source of randomness of the sampler.
        """
        rois = self.regions.sample(proposals, targets, generator)
        levels = self.body(self.images.normalise(batch))
        class_loss, box_loss = self.regions.losses(levels, rois)
        counts = SampleCounts((rois.labels > 0).sum(), (rois.labels == 0).sum())
        return Losses(class_loss, box_loss, counts=counts)

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch, proposals: Proposals) -> list[Detections]:
        """Return the detections of resized images among given proposals, in original pixels."""
        levels = self.body(self.images.normalise(batch))
        return self.regions.detect(levels, proposals, batch)
