"""Torchvision's Faster R-CNN under the same trainer, data and optimiser as ours."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from rcnn.data import DetectionBatch
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.structures import Detections
from rcnn.training.optim import Recipe
from rcnn.training.scores import Scores


class _Body(nn.Sequential):
    """A ResNet up to layer3, as torchvision's FasterRCNN wants a backbone."""

    out_channels = 256


class _Tail(nn.Module):
    """layer4 and average pooling on every RoI."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layer4(pooled).mean(dim=(2, 3))


def resnet18_c4(settings: DetectorSettings) -> FasterRCNN:
    """Return torchvision's detector with a ResNet-18 C4 body from random weights.

    Its limits and thresholds are those of ``settings`` wherever torchvision has them. It cannot
    leave out anchors that cross the border, and has no two-way softmax for objectness.
    """
    net = resnet18(weights=None)
    body = _Body(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    classes = len(settings.class_names) + 1
    sizes = tuple(int(16 * s) for s in settings.anchors.scales)
    std = settings.deltas.std
    limits, anchors, rois = settings.proposals, settings.anchor_sampling, settings.roi_sampling
    return FasterRCNN(
        body,
        min_size=settings.images.shorter_side,
        max_size=settings.images.longer_side,
        image_mean=list(settings.images.mean),
        image_std=list(settings.images.std),
        rpn_anchor_generator=AnchorGenerator((sizes,), (settings.anchors.ratios,)),
        rpn_pre_nms_top_n_train=limits.before_nms_train,
        rpn_pre_nms_top_n_test=limits.before_nms_test,
        rpn_post_nms_top_n_train=limits.after_nms_train,
        rpn_post_nms_top_n_test=limits.after_nms_test,
        rpn_nms_thresh=limits.nms_iou,
        rpn_fg_iou_thresh=anchors.positive_iou,
        rpn_bg_iou_thresh=anchors.negative_iou,
        rpn_batch_size_per_image=anchors.samples,
        rpn_positive_fraction=anchors.positive_fraction,
        box_roi_pool=MultiScaleRoIAlign(["0"], settings.pooling.size, 2),
        box_head=_Tail(net.layer4),
        box_predictor=FastRCNNPredictor(512, classes),
        box_score_thresh=settings.detections.score,
        box_nms_thresh=settings.detections.nms_iou,
        box_detections_per_img=settings.detections.per_image,
        box_fg_iou_thresh=rois.foreground_iou,
        box_bg_iou_thresh=rois.background_high,
        box_batch_size_per_image=rois.rois,
        box_positive_fraction=rois.foreground_fraction,
        bbox_reg_weights=tuple(1 / s for s in std),
    )


class TorchvisionModule(pl.LightningModule):
    """Torchvision's detector in the loop of ours: same batches, same optimiser, same metrics."""

    def __init__(self, detector: FasterRCNN, settings: DetectorSettings, recipe: Recipe) -> None:
        super().__init__()
        self.detector = detector
        self.settings = settings
        self.class_names = settings.class_names
        self.recipe = recipe
        self.scores = Scores(settings.class_names)
        self.per_class: dict[str, dict[str, dict[str, float]]] = {}

    def training_step(self, batch: DetectionBatch) -> Tensor:
        """Return the sum of torchvision's four losses."""
        targets = [
            {"boxes": boxes[labels > 0], "labels": labels[labels > 0]}
            for boxes, labels in zip(batch.targets.boxes, batch.targets.labels, strict=True)
        ]
        losses = self.detector(_images(batch), targets)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total, prog_bar=True)
        return total

    def test_step(self, batch: DetectionBatch) -> None:
        """Detect and score."""
        factors = 1 / batch.images.scales
        found = [
            Detections(scale(one["boxes"], factor), one["scores"], one["labels"], self.class_names)
            for one, factor in zip(self.detector(_images(batch)), factors, strict=True)
        ]
        self.scores.update(found, batch.truths)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        headline, self.per_class["test"] = self.scores.compute()
        self.log_dict({f"test/{name}": value for name, value in headline.items()})

    def configure_optimizers(self) -> Any:
        """Return what the recipe makes."""
        optimizer, schedule = self.recipe(self.detector, self.trainer.estimated_stepping_batches, 2)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _images(batch: DetectionBatch) -> list[Tensor]:
    """Return the images without padding, in 0..1; torchvision resizes them to their own size."""
    return [
        pixels[:, :height, :width].float() / 255
        for pixels, (height, width) in zip(
            batch.images.pixels, batch.images.sizes.tolist(), strict=True
        )
    ]
