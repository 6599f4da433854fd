"""Faster R-CNN: a proposal network and a region stage on shared convolutions.

Faster R-CNN, section 3: an image passes the convolutions once; the RPN says where to look, the
region stage what is there.
"""

from __future__ import annotations

import torch

from rcnn.model.compatibility import fitting_backbone
from rcnn.model.multiscale import pool_at_scales
from rcnn.model.proposal_network import FirstStage, ProposalNetwork
from rcnn.model.roi_heads import Pool, RegionStage, pool_from
from rcnn.model.settings import DetectorSettings
from rcnn.structures import (
    Detections,
    EvaluationPass,
    ImageBatch,
    Losses,
    Proposals,
    Targets,
    TrainingPass,
)


class FasterRCNN(ProposalNetwork):
    """The proposal network, and the region stage of Fast R-CNN on its features and proposals.

    Args:
        settings: of all stages.

    Raises:
        SettingsError: if the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        backbone = fitting_backbone(settings)
        super().__init__(settings, backbone)
        self.backbone = backbone
        self.regions = RegionStage(settings, backbone.tail)

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
        """Detect and measure the losses, looking at the images once (and at each test scale)."""
        first = self.look(batch)
        detections, proposals = self._detect(first, batch)
        losses = self._learn(first, batch, targets, generator).losses
        return EvaluationPass(detections, proposals, losses)

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return the detections of resized images, in original pixels, and their proposals.

        The proposals are in pixels of the resized images.
        """
        return self._detect(self.look(batch), batch)

    def _detect(self, first: FirstStage, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        proposals = self.propose(first, batch, train=False)
        pool = pool_from(first.levels, self.body, self.settings.pooling)
        size = self.settings.pooling.canonical_size
        pool = pool_at_scales(pool, self._pooling, batch, self.images, size)
        return self.regions.detect(pool, proposals, batch), proposals

    def _pooling(self, batch: ImageBatch) -> Pool:
        levels = self.body(self.images.normalise(batch))
        return pool_from(levels, self.body, self.settings.pooling)

    def _learn(
        self,
        first: FirstStage,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None,
        *,
        exact: bool = False,
    ) -> TrainingPass:
        first_losses, anchors = self._learn_anchors(first, batch, targets, generator)
        # Approximate joint training takes proposals for constants (section 3.2, ii).
        with torch.set_grad_enabled(exact and torch.is_grad_enabled()):
            proposals = self.propose(first, batch, train=True)
        pool = pool_from(first.levels, self.body, self.settings.pooling)
        second_losses, rois = self.regions.learn(pool, proposals, targets, generator)
        return TrainingPass(first_losses | second_losses, proposals, rois, first.anchors, anchors)
