"""Faster R-CNN: a region proposal network and RoI heads on shared convolutions (section 3).

Letters: B images, L levels of features, P proposals, R RoIs per image.

An image passes the convolutions once; the RPN says where to look, the RoI heads what is there::

    images -> transform -> backbone -> features -+-> rpn -------> proposals
                                                 +-> roi_heads <-'  -> losses, detections
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.backbones import SplitNetwork
from rcnn.model.multiscale import extract_at_test_scales
from rcnn.model.parts import build_image_network, build_rpn
from rcnn.model.roi_heads import RoIHeads
from rcnn.model.roi_pooling import RoIPooler
from rcnn.model.rpn import RPNOutput
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageTransform
from rcnn.structures import (
    Detections,
    EvaluationOutputs,
    ImageBatch,
    Losses,
    Proposals,
    Targets,
    TrainingOutputs,
)


class FasterRCNN(nn.Module):
    """Transform, backbone, RPN and RoI heads.

    Args:
        settings: settings of all stages.

    Raises:
        SettingsError: the settings of two stages do not fit each other.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        network = build_image_network(settings)
        self.weight_names = network.weight_names
        self.transform = ImageTransform(settings.images)
        self.backbone = network.backbone
        self.rpn = build_rpn(settings, self.backbone)
        pooler = RoIPooler(settings.pooling, self.backbone.roi_strides)
        self.roi_heads = RoIHeads(settings, pooler, network.box_head)

    @property
    def network(self) -> SplitNetwork:
        """The parts that pretrained weights fill."""
        return SplitNetwork(self.backbone, self.roi_heads.box_head, self.weight_names)

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
            targets: ground truth, in pixels of the resized images.
            generator: source of randomness of both samplers.
            exact: let gradients flow through the coordinates of the RoIs into the RPN, instead of
                taking proposals for constants (Faster R-CNN, section 3.2, iii).
        """
        return self.training_outputs(batch, targets, generator, exact=exact).losses

    @torch.no_grad()
    def detect(self, images: Sequence[Shaped[Tensor, "3 _ _"]]) -> list[Detections]:
        """Return the objects of each image, in its own pixels.

        The detector should be in evaluation mode (``.eval()``), as any module with dropout.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
        """
        return self.detect_batch(self.transform.batch(images))[0]

    def training_outputs(
        self,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None = None,
        *,
        exact: bool = False,
    ) -> TrainingOutputs:
        """Return the losses, see ``losses``, with the samples they were computed on."""
        features = self.extract_features(batch)
        output = self.rpn(features, batch)
        rpn_losses, anchors = self.rpn.losses(output, batch, targets, generator)
        # Approximate joint training takes proposals for constants (section 3.2, ii).
        with torch.set_grad_enabled(exact and torch.is_grad_enabled()):
            proposals = self.rpn.propose(output, batch, train=True)
        roi_losses, rois = self.roi_heads.losses(features, proposals, targets, generator)
        losses = rpn_losses | roi_losses
        return TrainingOutputs(losses, proposals, rois, output.anchors, anchors)

    @torch.no_grad()
    def evaluation_outputs(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationOutputs:
        """Return detections, proposals and losses from one pass through the backbone."""
        features = self.extract_features(batch)
        output = self.rpn(features, batch)
        detections, proposals = self._detect(features, output, batch)
        rpn_losses, _ = self.rpn.losses(output, batch, targets, generator)
        for_training = self.rpn.propose(output, batch, train=True)
        roi_losses, _ = self.roi_heads.losses(features, for_training, targets, generator)
        return EvaluationOutputs(detections, proposals, rpn_losses | roi_losses)

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return detections in original pixels, and proposals in pixels of the batch."""
        features = self.extract_features(batch)
        return self._detect(features, self.rpn(features, batch), batch)

    @record_function("backbone")
    def extract_features(self, batch: ImageBatch) -> list[Float[Tensor, "B C _ _"]]:
        """Return the feature maps of the images, finest level first."""
        levels: list[Tensor] = self.backbone(self.transform.normalise(batch))
        return levels

    def _detect(
        self, features: list[Float[Tensor, "B C _ _"]], output: RPNOutput, batch: ImageBatch
    ) -> tuple[list[Detections], Proposals]:
        proposals = self.rpn.propose(output, batch, train=False)
        scales = extract_at_test_scales(self.extract_features, features, batch, self.transform)
        return self.roi_heads.detect(features, proposals, batch, scales), proposals
