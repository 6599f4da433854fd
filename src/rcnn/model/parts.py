"""The parts that several systems have, built from their settings."""

from __future__ import annotations

from torch import nn

from rcnn.model.backbones import Backbone, SplitNetwork, build_network
from rcnn.model.rpn import RPN
from rcnn.model.settings import DetectorSettings
from rcnn.settings import require


def build_image_network(settings: DetectorSettings) -> SplitNetwork:
    """Build the network of a system that extracts features from whole images.

    Raises:
        SettingsError: the network does not fit the pooling or the images.
    """
    network = build_network(settings.backbone, settings.pooling.cells)
    # Otherwise part of a cell would lie at the border of a pooled level.
    stride, multiple = network.backbone.roi_strides[-1], settings.images.multiple
    allowed = f"backbone {settings.backbone.name!r} needs a multiple of its stride {stride}"
    require(multiple % stride == 0, "images.multiple", multiple, allowed)

    kind = settings.pooling.kind
    convolves = any(isinstance(layer, nn.Conv2d) for layer in network.box_head.modules())
    allowed = (
        f"the box head of {settings.backbone.name} convolves the pooled cells, and those of a "
        "pyramid are no map. Set backbone.box_head=two_mlp"
    )
    require(kind != "pyramid" or not convolves, "pooling.kind", kind, allowed)
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
