"""Torchvision's Faster R-CNN, assembled around every backbone that is shipped here.

Weights are random and nothing is downloaded. All layers learn, and batch norms count.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import MultiScaleRoIAlign

from rcnn.model.backbones.backbone import MOBILENET_PYRAMIDS, RESNET_PYRAMIDS, VGGS
from rcnn.model.settings import DetectorSettings


class Layer4Head(nn.Module):
    """The last stage of a ResNet and the mean over its cells, on every RoI."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        """Return one vector per RoI."""
        features: Tensor = self.layer4(pooled).mean(dim=(2, 3))
        return features


def pyramid_detector(backbone: str, size: tuple[int, int], classes: int) -> FasterRCNN:
    """Return a detector with a feature pyramid and torchvision's own limits and thresholds.

    Args:
        backbone: the name of a pyramid.
        size: (height, width) of the images, which are not resized.
        classes: K, without background.
    """
    sides: dict[str, Any] = {"min_size": min(size), "max_size": max(size)}
    if backbone in MOBILENET_PYRAMIDS:
        # Its builder has limits of its own.
        return fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None, num_classes=classes + 1, **sides
        )
    backbone = resnet_fpn_backbone(
        backbone_name=backbone.removesuffix("_fpn"),
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
    )
    return FasterRCNN(backbone, classes + 1, **sides)


def c4_detector(settings: DetectorSettings, images: int = 2) -> FasterRCNN:
    """Return a detector with one feature map of stride 16, its limits and thresholds as given.

    They are those of ``settings`` wherever torchvision has them. It cannot leave out anchors that
    cross the border, and has no two-way softmax for objectness.

    Args:
        settings: with a backbone without pyramid.
        images: of a minibatch, among which RoIs may be shared out.
    """
    backbone, head, features = _c4_parts(settings.backbone.name, settings.pooling.size)
    classes = len(settings.class_names) + 1
    sizes = tuple(int(16 * scale) for scale in settings.anchors.scales)
    limits, anchors, rois = settings.proposals, settings.anchor_sampling, settings.roi_sampling
    return FasterRCNN(
        backbone,
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
        box_head=head,
        box_predictor=FastRCNNPredictor(features, classes),
        box_score_thresh=settings.detections.score,
        box_nms_thresh=settings.detections.nms_iou,
        box_detections_per_img=settings.detections.per_image,
        box_fg_iou_thresh=rois.foreground_iou,
        box_bg_iou_thresh=rois.background_high,
        box_batch_size_per_image=rois.share(images),
        box_positive_fraction=rois.foreground_fraction,
        bbox_reg_weights=tuple(1 / deviation for deviation in settings.deltas.std),
    )


def is_pyramid(backbone: str) -> bool:
    """Return whether a shipped backbone has several feature maps."""
    return backbone in RESNET_PYRAMIDS + MOBILENET_PYRAMIDS


def has_norms(backbone: str) -> bool:
    """Return whether a shipped backbone has batch norms."""
    return backbone != "vgg16"


def _c4_parts(backbone: str, side: int) -> tuple[nn.Module, nn.Module, int]:
    """Return backbone, box head and the width of its output."""
    if backbone in VGGS:
        backbone = make_layers(cfgs["D"], batch_norm=backbone == "vgg16_bn")[:-1]
        for layer in backbone:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        backbone.out_channels = 512
        return backbone, TwoMLPHead(512 * side**2, 4096), 4096
    net = get_model(backbone, weights=None)
    backbone = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3
    )
    features = net.fc.in_features
    backbone.out_channels = features // 2
    return backbone, Layer4Head(net.layer4), features
