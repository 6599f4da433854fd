"""From settings to a network with random weights, cut into backbone and box head."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rcnn.model.backbones.backbone import (
    EFFICIENTNET,
    EFFICIENTNET_PYRAMID,
    MOBILENET_PYRAMIDS,
    RESNET_PYRAMIDS,
    RESNETS,
    SHIPPED,
    TIMM,
    VGGS,
    BackboneSettings,
    SplitNetwork,
)
from rcnn.model.backbones.efficientnet_lite import build_efficientnet, build_efficientnet_pyramid
from rcnn.model.backbones.fpn import build_mobilenet_pyramid, build_resnet_pyramid
from rcnn.model.backbones.resnet import build_resnet
from rcnn.model.backbones.timm import build_timm, pretrained_config
from rcnn.model.backbones.vgg import build_vgg
from rcnn.settings import SettingsError, nearest, require

Builder = Callable[[BackboneSettings, int], SplitNetwork]

Colours = tuple[float, float, float]
"""One number for red, green and blue each, on the 0..1 scale."""

IMAGENET: tuple[Colours, Colours] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels, which torchvision's weights expect."""

_BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(VGGS, build_vgg),
    **dict.fromkeys(RESNETS, build_resnet),
    **dict.fromkeys(RESNET_PYRAMIDS, build_resnet_pyramid),
    **dict.fromkeys(MOBILENET_PYRAMIDS, build_mobilenet_pyramid),
    EFFICIENTNET: build_efficientnet,
    EFFICIENTNET_PYRAMID: build_efficientnet_pyramid,
}


def normalisation(settings: BackboneSettings) -> tuple[Colours, Colours]:
    """Return mean and standard deviation of the pixels that the pretrained weights expect.

    They are ImageNet's for a backbone of the user's own.

    Raises:
        SettingsError: timm is not installed, or has no such model.
    """
    if settings.name.startswith(TIMM):
        config = pretrained_config(settings.name)
        return config.mean, config.std
    if settings.name in (EFFICIENTNET, EFFICIENTNET_PYRAMID):
        return (127 / 255,) * 3, (128 / 255,) * 3
    return IMAGENET


def build_network(settings: BackboneSettings, cells: int = 49) -> SplitNetwork:
    """Build a network with random weights; nothing is read or downloaded.

    Args:
        settings: resolved settings: ``norm="auto"`` counts as ``"batch"``, and ``frozen_stages``
            are frozen. Let ``rcnn.model.backbones.weights.resolve`` resolve them before.
        cells: number of pooled cells of a RoI, 49 for 7 x 7.

    Raises:
        SettingsError: a dotted path leads to no callable, or to one that returns no
            ``SplitNetwork``; timm is not installed, or its model does not fit; ``frozen_stages`` is
            larger than the number of stages; a rank is larger than that of its layer.
    """
    require(cells >= 1, "cells", cells, "1 or more")
    builder = _builder(settings.name)
    network = builder(settings, cells)
    require(
        isinstance(network, SplitNetwork),
        "backbone.name",
        settings.name,
        f"the callable returned a {type(network).__name__}, no rcnn.model.backbones.SplitNetwork",
    )
    box_head = network.box_head
    require(
        settings.ranks is None or getattr(box_head, "ranks", None) == settings.ranks,
        "backbone.ranks",
        settings.ranks,
        f"the {type(box_head).__name__} of {settings.name} was built without them",
    )
    return network


def _builder(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    if name.startswith(TIMM):
        return build_timm
    module_name, _, attribute = name.rpartition(".")
    try:
        builder: Builder = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a module may fail in any way while it is imported
        raise SettingsError(
            f"backbone.name={name!r} is not possible: {module_name} gives no {attribute} "
            f"({type(error).__name__}: {error}){nearest(name, SHIPPED)} "
            "Name a callable (settings, cells) -> SplitNetwork in an importable module."
        ) from error
    allowed = f"this is a {type(builder).__name__}, no callable"
    require(callable(builder), "backbone.name", name, allowed)
    return builder
