"""A region proposal network alone: objects whatever their class (Faster R-CNN, section 3.1).

Letters: B images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.backbones import BoxHead, SplitNetwork
from rcnn.model.parts import build_image_network, build_rpn
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageTransform
from rcnn.ops.boxes import clip, scale
from rcnn.structures import (
    Detections,
    EvaluationOutputs,
    ImageBatch,
    Losses,
    Proposals,
    Targets,
    TrainingOutputs,
)


class ProposalNetwork(nn.Module):
    """Transform, backbone and RPN; proposals are the result.

    Args:
        settings: settings of all stages; those of the RoI heads are not used.

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

    @property
    def network(self) -> SplitNetwork:
        """The parts that pretrained weights fill: without RoIs there is no box head."""
        return SplitNetwork(self.backbone, BoxHead(channels=0), self.weight_names)

    def losses(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> Losses:
        """Return the objectness and the box loss of a minibatch.

        Args:
            batch: resized, padded images.
            targets: ground truth, in pixels of the resized images.
            generator: source of randomness of the sampler.
        """
        return self.training_outputs(batch, targets, generator).losses

    @torch.no_grad()
    def detect(self, images: Sequence[Shaped[Tensor, "3 _ _"]]) -> list[Detections]:
        """Return the proposals of each image as detections of one class, in its own pixels.

        Args:
            images: RGB of any size, ``uint8`` in 0..255 or floating point in 0..1.
        """
        return self.detect_batch(self.transform.batch(images))[0]

    def training_outputs(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> TrainingOutputs:
        """Return the losses, see ``losses``, with the anchors they were computed on."""
        output = self.rpn(self.extract_features(batch), batch)
        losses, samples = self.rpn.losses(output, batch, targets, generator)
        return TrainingOutputs(losses, anchors=output.anchors, anchor_samples=samples)

    @torch.no_grad()
    def evaluation_outputs(
        self, batch: ImageBatch, targets: Targets, generator: torch.Generator | None = None
    ) -> EvaluationOutputs:
        """Return proposals and losses from one pass through the backbone."""
        output = self.rpn(self.extract_features(batch), batch)
        losses, _ = self.rpn.losses(output, batch, targets, generator)
        return EvaluationOutputs(None, self.rpn.propose(output, batch, train=False), losses)

    @torch.no_grad()
    def detect_batch(self, batch: ImageBatch) -> tuple[list[Detections], Proposals]:
        """Return proposals as detections in original pixels, and in pixels of the batch."""
        output = self.rpn(self.extract_features(batch), batch)
        proposals = self.rpn.propose(output, batch, train=False)
        boxes = clip(scale(proposals.boxes, 1 / batch.scales), batch.original_sizes)
        detections = [
            Detections(
                boxes[i, valid], proposals.scores[i, valid], valid[valid].long(), ("object",)
            )
            for i, valid in enumerate(proposals.valid)
        ]
        return detections, proposals

    @record_function("backbone")
    def extract_features(self, batch: ImageBatch) -> list[Float[Tensor, "B C _ _"]]:
        """Return the feature maps of the images, finest level first."""
        levels: list[Tensor] = self.backbone(self.transform.normalise(batch))
        return levels
