"""A region proposal network with its convolutions (Faster R-CNN, section 3.1).

Letters: B images, A anchors, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rcnn.model.anchors import AnchorGrid
from rcnn.model.backbones import Backbone, Tail
from rcnn.model.compatibility import fitting_backbone
from rcnn.model.losses import rpn_losses
from rcnn.model.proposals import propose
from rcnn.model.rpn import RPNHead, RPNOutput
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import sample_anchors
from rcnn.model.transform import ImageTransform
from rcnn.ops.boxes import clip, scale
from rcnn.structures import (
    AnchorSamples,
    Detections,
    EvaluationPass,
    ImageBatch,
    Losses,
    Proposals,
    SampleCounts,
    Targets,
    TrainingPass,
)

OBJECT = ("object",)
"""The class of everything that is found, as long as nothing says what it is."""


class FirstStage(NamedTuple):
    """Features, the anchors laid over them, and what the RPN says of these."""

    levels: list[Float[Tensor, "B C _ _"]]
    anchors: Float[Tensor, "A 4"]
    rpn: RPNOutput


class ProposalNetwork(nn.Module):
    """The first half of Faster R-CNN, which finds objects whatever their class.

    Args:
        settings: of all stages; those of the region stage are not used.
        backbone: whose body is used; by default a new one.

    Raises:
        SettingsError: if the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.settings = settings
        backbone = backbone or fitting_backbone(settings)
        self.images = ImageTransform(settings.images)
        self.body = backbone.body
        # A pretrained network fills the body alone.
        self.backbone = dataclasses.replace(backbone, tail=Tail(channels=0))
        self.anchors = AnchorGrid(settings.anchors, self.body.strides)
        self.rpn = RPNHead(settings.rpn, self.body.channels, settings.anchors.per_cell)

    def losses(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> Losses:
        """Return the objectness and the box loss of a minibatch.

        Args:
            batch: resized, padded images.
            targets: their ground truth, in pixels of the resized images.
            generator: the source of randomness of the sampler.
        """
        return self.training_pass(batch, targets, generator).losses

    def training_pass(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> TrainingPass:
        """Run all stages as :meth:`losses` does, and return their products too."""
        first = self.look(batch)
        losses, samples = self._learn_anchors(first, batch, targets, generator)
        return TrainingPass(losses, anchors=first.anchors, anchor_samples=samples)

    @torch.no_grad()
    def evaluation_pass(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationPass:
        """Propose and measure the losses, looking at the images once."""
        first = self.look(batch)
        losses, _ = self._learn_anchors(first, batch, targets, generator)
        return EvaluationPass(None, self.propose(first, batch, train=False), losses)

    @torch.no_grad()
    def detect(self, images: Sequence[Shaped[Tensor, "3 _ _"]]) -> list[Detections]:
        """Return the proposals of each image as detections of one class, in its own pixels.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
        """
        return self.detect_batch(self.images.batch(images))[0]

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return the proposals of resized images: as detections in original pixels, and as such."""
        proposals = self.propose(self.look(batch), batch, train=False)
        boxes = clip(scale(proposals.boxes, 1 / batch.scales), batch.original_sizes)
        found = [
            Detections(boxes[i, valid], proposals.scores[i, valid], valid[valid].long(), OBJECT)
            for i, valid in enumerate(proposals.valid)
        ]
        return found, proposals

    def look(self, batch: ImageBatch) -> FirstStage:
        """Run the backbone and the RPN."""
        levels = self.body(self.images.normalise(batch))
        grids = [(level.shape[-2], level.shape[-1]) for level in levels]
        anchors = self.anchors(grids, (batch.pixels.shape[-2], batch.pixels.shape[-1]))
        return FirstStage(levels, anchors, self.rpn(levels))

    def propose(self, first: FirstStage, batch: ImageBatch, *, train: bool) -> Proposals:
        """Return the proposals, in pixels of the resized images."""
        limits = self.settings.proposals
        return propose(
            first.anchors, first.rpn.logits, first.rpn.deltas, batch, limits, train=train
        )

    def _learn_anchors(
        self,
        first: FirstStage,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None,
    ) -> tuple[Losses, AnchorSamples]:
        anchors, rpn, settings = first.anchors, first.rpn, self.settings
        samples = sample_anchors(anchors, targets, batch, settings.anchor_sampling, generator)
        objectness, boxes = rpn_losses(
            torch.cat(rpn.logits, dim=1),
            torch.cat(rpn.deltas, dim=1),
            samples,
            locations=len(anchors) // settings.anchors.per_cell,
            settings=settings.losses,
        )
        counts = SampleCounts(
            anchors_positive=(samples.labels == 1).sum(),
            anchors_negative=(samples.labels == 0).sum(),
        )
        return Losses(rpn_objectness=objectness, rpn_boxes=boxes, counts=counts), samples
