"""Faster R-CNN, put together from its stages.

Letters: B images, A anchors, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rcnn.model.anchors import AnchorGrid
from rcnn.model.backbones import Backbone, build_backbone
from rcnn.model.images import ImageTransform
from rcnn.model.losses import rpn_losses
from rcnn.model.proposals import propose
from rcnn.model.region_stage import RegionStage
from rcnn.model.rpn import RPNHead, RPNOutput
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import sample_anchors
from rcnn.structures import (
    AnchorSamples,
    Detections,
    ImageBatch,
    Losses,
    Proposals,
    RoISamples,
    SampleCounts,
    Targets,
)


@dataclass(frozen=True)
class TrainingPass:
    """What a training step computed on its way to the losses; a system without RPN has fewer.

    Attributes:
        losses: the terms that are differentiated.
        proposals: what the RoIs were drawn from.
        rois: those that were drawn.
        anchors: of all levels.
        anchor_samples: those that were drawn.
    """

    losses: Losses
    proposals: Proposals
    rois: RoISamples
    anchors: Float[Tensor, "A 4"] | None = None
    anchor_samples: AnchorSamples | None = None


@dataclass(frozen=True)
class EvaluationPass:
    """What a validation step needs, from one pass through the backbone.

    Attributes:
        detections: of each image, in original pixels.
        proposals: what they were found among, in pixels of the resized images.
        losses: as a training step would have them, without gradients.
    """

    detections: list[Detections]
    proposals: Proposals
    losses: Losses


class FirstStage(NamedTuple):
    """Features, the anchors laid over them, and what the RPN says of these."""

    levels: list[Float[Tensor, "B C _ _"]]
    anchors: Float[Tensor, "A 4"]
    rpn: RPNOutput


class FasterRCNN(nn.Module):
    """Faster R-CNN: a region proposal network and a region stage on shared convolutions.

    Args:
        settings: of all stages.

    Raises:
        SettingsError: if the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        backbone = build_backbone(settings.backbone, settings.pooling.cells)
        self.images = ImageTransform(settings.images)
        self.body = backbone.body
        self.anchors = AnchorGrid(settings.anchors, self.body.strides)
        self.rpn = RPNHead(settings.rpn, self.body.channels, settings.anchors.per_cell)
        self.regions = RegionStage(settings, backbone)

    @property
    def backbone(self) -> Backbone:
        """The body and the tail, which start from the same pretrained network."""
        return Backbone(self.body, self.regions.tail)

    def losses(
        self,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None = None,
        *,
        exact: bool = False,
    ) -> Losses:
        """Return the four losses of a minibatch.

        Args:
            batch: resized, padded images.
            targets: their ground truth, in pixels of the resized images.
            generator: the source of randomness of both samplers.
            exact: let gradients flow through the coordinates of the RoIs into the RPN, instead of
                taking proposals for constants (Faster R-CNN, section 3.2, iii).
        """
        return self.training_pass(batch, targets, generator, exact=exact).losses

    def training_pass(
        self,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None = None,
        *,
        exact: bool = False,
    ) -> TrainingPass:
        """Run all stages as :meth:`losses` does, and return their products too."""
        return self._learn(self.look(batch), batch, targets, generator, exact=exact)

    @torch.no_grad()
    def evaluation_pass(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationPass:
        """Detect and measure the losses, looking at the images once."""
        first = self.look(batch)
        proposals = self._propose(first, batch, train=False)
        detections = self.regions.detect(first.levels, proposals, batch)
        losses = self._learn(first, batch, targets, generator).losses
        return EvaluationPass(detections, proposals, losses)

    @torch.no_grad()
    def detect(self, images: Sequence[Shaped[Tensor, "3 _ _"]]) -> list[Detections]:
        """Return what is in each image, in its own pixels.

        The detector should be in evaluation mode (``.eval()``), as for any module with dropout.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
        """
        return self.detect_batch(self.images.batch(images))[0]

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return the detections of resized images, in original pixels, and their proposals.

        The proposals are in pixels of the resized images.
        """
        first = self.look(batch)
        proposals = self._propose(first, batch, train=False)
        return self.regions.detect(first.levels, proposals, batch), proposals

    def look(self, batch: ImageBatch) -> FirstStage:
        """Run the backbone and the RPN."""
        levels = self.body(self.images.normalise(batch))
        grids = [(level.shape[-2], level.shape[-1]) for level in levels]
        anchors = self.anchors(grids, (batch.pixels.shape[-2], batch.pixels.shape[-1]))
        return FirstStage(levels, anchors, self.rpn(levels))

    def _propose(self, first: FirstStage, batch: ImageBatch, *, train: bool) -> Proposals:
        limits = self.settings.proposals
        return propose(
            first.anchors, first.rpn.logits, first.rpn.deltas, batch, limits, train=train
        )

    def _learn(
        self,
        first: FirstStage,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None,
        *,
        exact: bool = False,
    ) -> TrainingPass:
        anchors, rpn = first.anchors, first.rpn
        anchor_samples = sample_anchors(
            anchors, targets, batch, self.settings.anchor_sampling, generator
        )
        objectness_loss, rpn_box_loss = rpn_losses(
            torch.cat(rpn.logits, dim=1),
            torch.cat(rpn.deltas, dim=1),
            anchor_samples,
            locations=len(anchors) // self.settings.anchors.per_cell,
            settings=self.settings.losses,
        )
        # Approximate joint training takes proposals for constants (section 3.2, ii).
        with torch.set_grad_enabled(exact and torch.is_grad_enabled()):
            proposals = self._propose(first, batch, train=True)
        rois = self.regions.sample(proposals, targets, generator)
        class_loss, box_loss = self.regions.losses(first.levels, rois)
        counts = SampleCounts(
            rois_foreground=(rois.labels > 0).sum(),
            rois_background=(rois.labels == 0).sum(),
            anchors_positive=(anchor_samples.labels == 1).sum(),
            anchors_negative=(anchor_samples.labels == 0).sum(),
        )
        losses = Losses(class_loss, box_loss, objectness_loss, rpn_box_loss, counts)
        return TrainingPass(losses, proposals, rois, anchors, anchor_samples)
