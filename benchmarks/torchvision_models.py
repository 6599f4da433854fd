"""Torchvision's Faster R-CNN around every backbone that is shipped here, with realistic weights.

Nothing is downloaded: weights are random, all layers are trained, batch norms use the minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
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

OBJECTNESS, ANCHOR_DELTAS = 2.0, 0.3
"""Standard deviations of the RPN's outputs over all anchors."""

CLASSES, BOX_DELTAS = 2.0, 1.0
"""Standard deviations of the box predictor's outputs over all RoIs."""

BACKGROUND = 7.0
"""Offset of background's logit: a few hundred scores per image pass 0.05."""


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
        backbone: name of a backbone with a feature pyramid.
        size: (height, width) of the images, which are not resized.
        classes: K, without background.
    """
    sides: dict[str, Any] = {"min_size": min(size), "max_size": max(size)}
    if backbone in MOBILENET_PYRAMIDS:
        # Its builder has limits of its own.
        return fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None, num_classes=classes + 1, **sides
        )
    network = resnet_fpn_backbone(
        backbone_name=backbone.removesuffix("_fpn"),
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
    )
    return FasterRCNN(network, classes + 1, **sides)


def c4_detector(settings: DetectorSettings, images: int = 2) -> FasterRCNN:
    """Return a detector with one feature map of stride 16 and the limits of ``settings``.

    Torchvision cannot skip anchors that cross the border, and has no two-way softmax.

    Args:
        settings: settings with a backbone without feature pyramid.
        images: number of images of a minibatch, among which RoIs may be divided.
    """
    backbone, head, features = _c4_parts(settings.backbone.name, settings.pooling.size)
    classes = len(settings.class_names) + 1
    sizes = tuple(int(16 * scale) for scale in settings.anchors.scales)
    limits, anchors, rois = settings.proposals, settings.anchor_sampling, settings.roi_sampling
    return FasterRCNN(
        backbone,
        min_size=settings.images.shorter_side,
        max_size=settings.images.longer_side,
        image_mean=settings.images.mean,
        image_std=settings.images.std,
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
        box_batch_size_per_image=rois.rois_per_image(images),
        box_positive_fraction=rois.foreground_fraction,
        bbox_reg_weights=tuple(1 / deviation for deviation in settings.deltas.std),
    )


def is_pyramid(backbone: str) -> bool:
    """Return whether a shipped backbone has several feature maps."""
    return backbone in RESNET_PYRAMIDS + MOBILENET_PYRAMIDS


def has_norms(backbone: str) -> bool:
    """Return whether a shipped backbone has batch norms."""
    return backbone != "vgg16"


def _c4_parts(name: str, pooled_size: int) -> tuple[nn.Module, nn.Module, int]:
    """Return backbone, box head and the number of its output channels."""
    if name in VGGS:
        vgg = make_layers(cfgs["D"], batch_norm=name == "vgg16_bn")[:-1]
        for layer in vgg:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        vgg.out_channels = 512
        return vgg, TwoMLPHead(512 * pooled_size**2, 4096), 4096
    net = get_model(name, weights=None)
    resnet = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3
    )
    features = net.fc.in_features
    resnet.out_channels = features // 2
    return resnet, Layer4Head(net.layer4), features


@torch.no_grad()
def set_realistic_weights(
    model: FasterRCNN, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> None:
    """Fit the batch norms to the images, and spread the predictions over anchors and RoIs.

    Fresh weights score all anchors alike and leave them where they are: suppression would meet a
    regular grid, no detection would pass the threshold, and the timed case would be one that no
    user has.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if norms:
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.momentum = 1.0  # the statistics become those of the images
        model.train()(images, targets)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    model.eval()
    head = model.rpn.head
    with _outputs([head.cls_logits, head.bbox_pred]) as outputs:
        levels = model.backbone(model.transform(list(images))[0].tensors)
        head([levels] if isinstance(levels, Tensor) else list(levels.values()))
    _spread(head.cls_logits, outputs[0], OBJECTNESS)
    _spread(head.bbox_pred, outputs[1], ANCHOR_DELTAS)
    predictor = model.roi_heads.box_predictor
    with _outputs([predictor.cls_score, predictor.bbox_pred]) as outputs:
        model(images)
    _spread(predictor.cls_score, outputs[0], CLASSES)
    _spread(predictor.bbox_pred, outputs[1], BOX_DELTAS)
    predictor.cls_score.bias[0] += BACKGROUND


@contextmanager
def _outputs(layers: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collect the outputs of layers, one row per channel."""
    found: list[list[Tensor]] = [[] for _ in layers]

    def collect(index: int, output: Tensor) -> None:
        found[index].append(output.transpose(0, 1).flatten(1))

    handles = [
        layer.register_forward_hook(lambda _, __, output, index=index: collect(index, output))
        for index, layer in enumerate(layers)
    ]
    yield found
    for handle in handles:
        handle.remove()


def _spread(layer: nn.Conv2d | nn.Linear, outputs: Sequence[Tensor], deviation: float) -> None:
    """Scale a layer so that each of its channels has mean 0 and the given deviation."""
    rows = torch.cat(list(outputs), dim=1)
    factor = deviation / rows.std(dim=1).clamp(min=1e-12)
    layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.ndim - 1)))
    assert layer.bias is not None
    layer.bias.sub_(rows.mean(dim=1)).mul_(factor)
