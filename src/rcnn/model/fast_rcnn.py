"""Fast R-CNN: the region stage on proposals that come from outside (Fast R-CNN, section 2).

Letters: B images, R RoIs per image, P proposals of an image, C channels, S side of a pooled RoI.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rcnn.model.backbones import Backbone
from rcnn.model.compatibility import fitting_backbone
from rcnn.model.multiscale import pool_at_scales
from rcnn.model.proposals import given_proposals
from rcnn.model.roi_heads import Pool, RegionStage, pool_from
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageTransform
from rcnn.structures import (
    Detections,
    EvaluationPass,
    ImageBatch,
    Losses,
    Proposals,
    Targets,
    TrainingPass,
)


class FastRCNN(nn.Module):
    """Convolutions once on the image, then a RoI pooling and the region stage.

    Args:
        settings: of all stages; those of anchors and RPN are not used, and of the limits of
            proposals not those of suppression.
        backbone: by default a new one.

    Raises:
        SettingsError: if the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.settings = settings
        backbone = backbone or fitting_backbone(settings)
        self.images = ImageTransform(settings.images)
        self.backbone = backbone
        self.body = backbone.body
        self.regions = RegionStage(settings, backbone.tail)

    def losses(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> Losses:
        """Return the class and the box loss of a minibatch.

        Args:
            batch: resized, padded images with their proposals.
            targets: ground truth, in pixels of the resized images.
            generator: the source of randomness of the sampler.

        Raises:
            ValueError: if the batch has no proposals.
        """
        return self.training_pass(batch, targets, generator).losses

    def training_pass(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> TrainingPass:
        """Run all stages as :meth:`losses` does, and return their products too."""
        proposals = self._choose(batch, train=True)
        losses, rois = self.regions.learn(self.pooling(batch), proposals, targets, generator)
        return TrainingPass(losses, proposals, rois)

    @torch.no_grad()
    def evaluation_pass(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationPass:
        """Detect and measure the losses, looking at the images once (and at each test scale)."""
        proposals, pool = self._choose(batch, train=False), self.pooling(batch)
        detections = self._detect(pool, proposals, batch)
        learned = self._choose(batch, train=True)
        losses, _ = self.regions.learn(pool, learned, targets, generator)
        return EvaluationPass(detections, proposals, losses)

    @torch.no_grad()
    def detect(
        self, images: Sequence[Shaped[Tensor, "3 _ _"]], proposals: Sequence[Float[Tensor, "_ 4"]]
    ) -> list[Detections]:
        """Return what is in each image, in its own pixels.

        The detector should be in evaluation mode (``.eval()``), as for any module with dropout.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
            proposals: boxes of each image in its own pixels, best first.

        Raises:
            ValueError: if there are not as many sets of proposals as images.
        """
        if len(proposals) != len(images):
            raise ValueError(
                f"There are {len(images)} images, but the proposals of {len(proposals)}: give the "
                "boxes of each image, (P, 4), be it that there are none, (0, 4)."
            )
        batch = self.images.batch(images)
        scaled = Proposals.pad(proposals, batch.scales)
        return self.detect_batch(dataclasses.replace(batch, proposals=scaled))[0]

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return the detections of resized images, in original pixels, and the proposals used."""
        proposals = self._choose(batch, train=False)
        return self._detect(self.pooling(batch), proposals, batch), proposals

    def pooling(self, batch: ImageBatch) -> Pool:
        """Look at the images, and return what gives the features of RoIs."""
        levels = self.body(self.images.normalise(batch))
        return pool_from(levels, self.body, self.settings.pooling)

    def _detect(self, pool: Pool, proposals: Proposals, batch: ImageBatch) -> list[Detections]:
        size = self.settings.pooling.canonical_size
        pool = pool_at_scales(pool, self.pooling, batch, self.images, size)
        return self.regions.detect(pool, proposals, batch)

    def _choose(self, batch: ImageBatch, *, train: bool) -> Proposals:
        return given_proposals(batch, self.settings.proposals, self.body.strides[0], train=train)
