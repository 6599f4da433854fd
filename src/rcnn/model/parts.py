"""The parts of a detector from its settings; parts that do not fit each other are an error."""

from __future__ import annotations

from torch import nn

from rcnn.model.backbones import Backbone, BoxHead, SplitNetwork, build_network
from rcnn.model.rpn import RPN
from rcnn.model.settings import DetectorSettings
from rcnn.settings import require


def build_image_network(settings: DetectorSettings) -> SplitNetwork:
    """Build the network of a system that extracts features from whole images.

    Raises:
        SettingsError: the network does not fit the pooling or the images.
    """
    network = build_network(settings.backbone, settings.pooling.cells)
    _check_padding(settings, network.backbone)
    _check_pyramid(settings, network.box_head)
    return network


def build_region_network(settings: DetectorSettings) -> SplitNetwork:
    """Build the network of a system that extracts features from every region by itself.

    Raises:
        SettingsError: the network does not fit the warped regions or the pooling.
    """
    kind = settings.pooling.kind
    allowed = "model=rcnn has one feature map per region; only model=sppnet pools a pyramid"
    require(kind != "pyramid", "pooling.kind", kind, allowed)
    network = build_network(settings.backbone, settings.pooling.cells)
    levels = network.backbone.roi_levels
    allowed = (
        f"it has {levels} feature maps, and model=rcnn takes a region's features from one. "
        "Choose a backbone without feature pyramid, such as resnet18 or vgg16, or model=fast_rcnn"
    )
    require(levels == 1, "backbone.name", settings.backbone.name, allowed)
    size, side, stride = settings.warp.size, settings.pooling.size, network.backbone.strides[0]
    allowed = (
        f"at the backbone's stride of {stride} it gives fewer than the {side} cells of "
        f"pooling.size; it should be {side * stride} or more"
    )
    require(size >= side * stride, "warp.size", size, allowed)
    return network


def build_rpn(settings: DetectorSettings, backbone: Backbone) -> RPN:
    """Build the RPN of a detector on the features of its backbone."""
    return RPN(
        backbone.channels,
        backbone.strides,
        head=settings.rpn,
        anchors=settings.anchors,
        sampling=settings.anchor_sampling,
        losses=settings.losses,
        proposals=settings.proposals,
    )


def _check_padding(settings: DetectorSettings, backbone: Backbone) -> None:
    """Refuse a padding that would leave part of a cell at the border of a pooled level."""
    stride, multiple = backbone.roi_strides[-1], settings.images.multiple
    allowed = f"backbone {settings.backbone.name!r} needs a multiple of its stride {stride}"
    require(multiple % stride == 0, "images.multiple", multiple, allowed)


def _check_pyramid(settings: DetectorSettings, box_head: BoxHead) -> None:
    """Refuse a box head that convolves the cells of a pyramid, which are no map."""
    convolves = any(isinstance(layer, nn.Conv2d) for layer in box_head.modules())
    allowed = (
        f"the box head of {settings.backbone.name} convolves the pooled cells, and those of a "
        "pyramid are no map. Set backbone.box_head=two_mlp"
    )
    kind = settings.pooling.kind
    require(kind != "pyramid" or not convolves, "pooling.kind", kind, allowed)
