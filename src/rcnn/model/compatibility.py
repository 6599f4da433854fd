"""A backbone that fits the other stages."""

from __future__ import annotations

from torch import nn

from rcnn.model.backbones import Backbone, Body, Tail, build_backbone
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError, require


def fitting_backbone(settings: DetectorSettings) -> Backbone:
    """Build the backbone of a system that pools its RoIs from the features of whole images.

    Raises:
        SettingsError: if it does not fit the pooling or the images.
    """
    backbone = build_backbone(settings.backbone, settings.pooling.cells)
    _check_padding(settings, backbone.body)
    _check_cells(settings, backbone.tail)
    return backbone


def warping_backbone(settings: DetectorSettings) -> Backbone:
    """Build the backbone of a system that pushes every region through all of it.

    Raises:
        SettingsError: if it does not fit the warped regions or the pooling.
    """
    allowed = "model=rcnn has one feature map for each region, of pooling.size; model=sppnet pools"
    kind = settings.pooling.kind
    require(kind != "pyramid", "pooling.kind", kind, f"{allowed} a pyramid")
    backbone = build_backbone(settings.backbone, settings.pooling.cells)
    levels = backbone.body.roi_levels
    allowed = (
        f"it makes {levels} feature maps, and model=rcnn takes a region's features from one. "
        "Choose a backbone without pyramid, such as resnet18 or vgg16, or model=fast_rcnn"
    )
    require(levels == 1, "backbone.name", settings.backbone.name, allowed)
    size, side, stride = settings.warp.size, settings.pooling.size, backbone.body.strides[0]
    allowed = (
        f"with the backbone's stride of {stride} it gives fewer than the {side} cells of "
        f"pooling.size; it is {side * stride} or more"
    )
    require(size >= side * stride, "warp.size", size, allowed)
    return backbone


def _check_padding(settings: DetectorSettings, body: Body) -> None:
    """Refuse a padding that would leave part of a cell at the border of a pooled level."""
    stride = body.strides[body.roi_levels - 1]
    if settings.images.multiple % stride:
        raise SettingsError(
            f"images.multiple={settings.images.multiple} is not possible: backbone "
            f"{settings.backbone.name!r} needs a multiple of its stride {stride}."
        )


def _check_cells(settings: DetectorSettings, tail: Tail) -> None:
    """Refuse a tail for which the cells of a pyramid, which form no square, have to be one."""
    convolves = any(isinstance(layer, nn.Conv2d) for layer in tail.modules())
    allowed = (
        f"the tail of {settings.backbone.name} convolves the pooled cells, and those of a pyramid "
        "are no map. Set backbone.tail=linear"
    )
    kind = settings.pooling.kind
    require(kind != "pyramid" or not convolves, "pooling.kind", kind, allowed)
