"""Fast R-CNN: RoI heads on proposals that come with the images (Fast R-CNN, section 2).

Letters: B images, P proposals, R RoIs per image, C channels.

An image passes the convolutions once, whatever the number of its proposals::

    images ----> transform -> backbone -> features -> roi_heads -> losses, detections
    proposals ----------------------------------------^
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.backbones import SplitNetwork
from rcnn.model.multiscale import extract_at_test_scales
from rcnn.model.parts import build_image_network
from rcnn.model.proposals import given_proposals
from rcnn.model.roi_heads import RoIHeads
from rcnn.model.roi_pooling import Pooler, RoIPooler
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


class FastRCNN(nn.Module):
    """Transform, backbone and RoI heads.

    R-CNN and SPP-net differ from Fast R-CNN in how RoIs become features, and in that alone: they
    are this class with another network, another pooler, or frozen convolutions.

    Args:
        settings: settings of all stages; those of anchors, RPN and the suppression of proposals
            are not used.
        network: network cut into backbone and box head; by default built from ``settings``.
        pooler: turns features and RoIs into the features of each RoI; by default RoI pooling.

    Raises:
        SettingsError: the settings of two stages do not fit each other.
    """

    def __init__(
        self,
        settings: DetectorSettings,
        network: SplitNetwork | None = None,
        pooler: Pooler | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        network = network or build_image_network(settings)
        self.weight_names = network.weight_names
        self.transform = ImageTransform(settings.images)
        self.backbone = network.backbone
        pooler = pooler or RoIPooler(settings.pooling, self.backbone.roi_strides)
        self.roi_heads = RoIHeads(settings, pooler, network.box_head)

    @property
    def network(self) -> SplitNetwork:
        """The parts that pretrained weights fill."""
        return SplitNetwork(self.backbone, self.roi_heads.box_head, self.weight_names)

    def losses(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> Losses:
        """Return the class and the box loss of a minibatch.

        Args:
            batch: resized, padded images with their proposals.
            targets: ground truth, in pixels of the resized images.
            generator: source of randomness of the sampler.

        Raises:
            ValueError: the batch has no proposals.
        """
        return self.training_outputs(batch, targets, generator).losses

    @torch.no_grad()
    def detect(
        self, images: Sequence[Shaped[Tensor, "3 _ _"]], proposals: Sequence[Float[Tensor, "_ 4"]]
    ) -> list[Detections]:
        """Return the objects of each image, in its own pixels.

        The detector should be in evaluation mode (``.eval()``), as any module with dropout.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
            proposals: boxes of each image in its own pixels, best first.

        Raises:
            ValueError: the numbers of images and of sets of proposals differ.
        """
        if len(proposals) != len(images):
            raise ValueError(
                f"There are {len(images)} images, but the proposals of {len(proposals)}: give one "
                "tensor of boxes (P, 4) per image; (0, 4) if an image has none."
            )
        batch = self.transform.batch(images)
        scaled = Proposals.pad(proposals, batch.scales)
        return self.detect_batch(dataclasses.replace(batch, proposals=scaled))[0]

    def training_outputs(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> TrainingOutputs:
        """Return the losses, see ``losses``, with the RoIs they were computed on."""
        proposals = self.select_proposals(batch, train=True)
        features = self.extract_features(batch)
        losses, rois = self.roi_heads.losses(features, proposals, targets, generator)
        return TrainingOutputs(losses, proposals, rois)

    @torch.no_grad()
    def evaluation_outputs(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationOutputs:
        """Return detections, proposals and losses from one pass through the backbone."""
        features = self.extract_features(batch)
        detections, proposals = self._detect(features, batch)
        for_training = self.select_proposals(batch, train=True)
        losses, _ = self.roi_heads.losses(features, for_training, targets, generator)
        return EvaluationOutputs(detections, proposals, losses)

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return detections in original pixels, and proposals in pixels of the batch."""
        return self._detect(self.extract_features(batch), batch)

    @record_function("backbone")
    def extract_features(self, batch: ImageBatch) -> list[Float[Tensor, "B C _ _"]]:
        """Return what is computed once per image: its feature maps, finest level first."""
        levels: list[Tensor] = self.backbone(self.transform.normalise(batch))
        return levels

    def select_proposals(self, batch: ImageBatch, *, train: bool) -> Proposals:
        """Return those of the batch's proposals that are used, best first."""
        stride = self.backbone.strides[0]
        return given_proposals(batch, self.settings.proposals, stride, train=train)

    def _detect(
        self, features: list[Float[Tensor, "B C _ _"]], batch: ImageBatch
    ) -> tuple[list[Detections], Proposals]:
        proposals = self.select_proposals(batch, train=False)
        scales = extract_at_test_scales(self.extract_features, features, batch, self.transform)
        return self.roi_heads.detect(features, proposals, batch, scales), proposals
