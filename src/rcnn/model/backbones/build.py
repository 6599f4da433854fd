"""From settings to a network with random weights, cut into backbone and box head."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rcnn.model.backbones.backbone import (
    MOBILENET_PYRAMIDS,
    RESNET_PYRAMIDS,
    RESNETS,
    SHIPPED,
    VGGS,
    BackboneSettings,
    SplitNetwork,
)
from rcnn.model.backbones.fpn import build_mobilenet_pyramid, build_resnet_pyramid
from rcnn.model.backbones.resnet import build_resnet
from rcnn.model.backbones.vgg import build_vgg
from rcnn.settings import SettingsError, nearest, require

Builder = Callable[[BackboneSettings, int], SplitNetwork]

_BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(VGGS, build_vgg),
    **dict.fromkeys(RESNETS, build_resnet),
    **dict.fromkeys(RESNET_PYRAMIDS, build_resnet_pyramid),
    **dict.fromkeys(MOBILENET_PYRAMIDS, build_mobilenet_pyramid),
}


def build_network(settings: BackboneSettings, cells: int = 49) -> SplitNetwork:
    """Build a network with random weights; nothing is read or downloaded.

    Args:
        settings: resolved settings: ``norm="auto"`` counts as ``"batch"``, and ``frozen_stages``
            are frozen. Let ``rcnn.model.backbones.weights.resolve`` resolve them before.
        cells: number of pooled cells of a RoI, 49 for 7 x 7.

    Raises:
        SettingsError: a dotted path leads to no callable, or to one that returns no
            ``SplitNetwork``; ``frozen_stages`` is larger than the number of stages; a rank is
            larger than that of its layer.
    """
    require(cells >= 1, "cells", cells, "1 or more")
    builder = _BUILDERS.get(settings.name) or _imported(settings.name)
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


def _imported(path: str) -> Builder:
    module_name, _, name = path.rpartition(".")
    try:
        builder: Builder = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a module may fail in any way while it is imported
        raise SettingsError(
            f"backbone.name={path!r} is not possible: {module_name} gives no {name} "
            f"({type(error).__name__}: {error}){nearest(path, SHIPPED)} "
            "Name a callable (settings, cells) -> SplitNetwork in an importable module."
        ) from error
    require(
        callable(builder), "backbone.name", path, f"this is a {type(builder).__name__}, no callable"
    )
    return builder
