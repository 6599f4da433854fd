"""The second stage of every system: what is in each region, and where exactly.

Letters: B images, R RoIs per image, P proposals, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.model.backbones import Backbone, Body
from rcnn.model.box_head import BoxHead, HeadOutput
from rcnn.model.losses import roi_losses
from rcnn.model.postprocess import postprocess
from rcnn.model.roi_pooling import pool_rois
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import sample_rois
from rcnn.settings import SettingsError
from rcnn.structures import Detections, ImageBatch, Proposals, RoISamples, Targets


class RegionStage(nn.Module):
    """RoI pooling, the backbone's tail and the box head: the region network of Fast R-CNN."""

    delta_mean: Tensor
    delta_std: Tensor

    def __init__(self, settings: DetectorSettings, backbone: Backbone) -> None:
        super().__init__()
        _check_padding(settings, backbone.body)
        self.settings = settings
        self.strides = backbone.body.strides[: backbone.body.roi_levels]
        self.tail = backbone.tail
        self.head = BoxHead(settings.head, self.tail.channels, len(settings.class_names))
        rows = len(settings.class_names) + 1
        for name in ("mean", "std"):
            values = torch.tensor(getattr(settings.deltas, name)).repeat(rows, 1)
            self.register_buffer(f"delta_{name}", values, persistent=False)

    def sample(
        self, proposals: Proposals, targets: Targets, generator: torch.Generator | None
    ) -> RoISamples:
        """Draw the RoIs to learn from."""
        settings = self.settings.roi_sampling
        return sample_rois(proposals, targets, settings, self.delta_mean, self.delta_std, generator)

    def losses(
        self, levels: Sequence[Float[Tensor, "B C _ _"]], rois: RoISamples
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the class and the box loss of sampled RoIs."""
        output = self._predict(levels, rois.boxes)
        return roi_losses(output.logits, output.deltas, rois, self.settings.losses)

    def detect(
        self, levels: Sequence[Float[Tensor, "B C _ _"]], proposals: Proposals, batch: ImageBatch
    ) -> list[Detections]:
        """Classify and refine proposals into detections, in original pixels."""
        output = self._predict(levels, proposals.boxes)
        sets = output.deltas.shape[-2]  # D
        deltas = output.deltas * self.delta_std[-sets:] + self.delta_mean[-sets:]
        return postprocess(
            proposals,
            output.logits,
            deltas,
            batch,
            self.settings.detections,
            self.settings.class_names,
        )

    def _predict(
        self, levels: Sequence[Float[Tensor, "B C _ _"]], rois: Float[Tensor, "B R 4"]
    ) -> HeadOutput:
        """Return logits (B, R, K + 1) and normalised deltas (B, R, D, 4)."""
        pooled = pool_rois(levels[: len(self.strides)], self.strides, rois, self.settings.pooling)
        output = self.head(self.tail(pooled))
        # (B R, ...) -> (B, R, ...)
        places = rois.shape[:2]
        return HeadOutput(output.logits.unflatten(0, places), output.deltas.unflatten(0, places))


def _check_padding(settings: DetectorSettings, body: Body) -> None:
    """Refuse a padding that would leave part of a cell at the border of a pooled level."""
    stride = body.strides[body.roi_levels - 1]
    if settings.images.multiple % stride:
        raise SettingsError(
            f"images.multiple={settings.images.multiple} is not possible: backbone "
            f"{settings.backbone.name!r} needs a multiple of its stride {stride}."
        )
