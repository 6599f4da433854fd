"""Which of the backbones a torchvision detector was assembled around.

A backbone is known by its tensors: their kinds and shapes in order, whatever the modules around
them are called. What tensors do not show (strides, pooling, activations) is settled afterwards, by
comparing results (:mod:`rcnn.interop.probe`).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.interop.dropout import read_dropout
from rcnn.interop.errors import InteropError
from rcnn.interop.layout import pair_keys, signature
from rcnn.model.backbones import (
    SHIPPED,
    BackboneSettings,
    SplitNetwork,
    TwoMLPHead,
    build_network,
)
from rcnn.settings import SettingsError


def recognise_backbone(model: FasterRCNN, pooled_size: int) -> BackboneSettings:
    """Return settings that build the backbone and the box head of ``model``.

    ``frozen_stages`` counts the leading stages in which nothing learns.

    Args:
        model: of torchvision.
        pooled_size: side of the grid of cells that each RoI is pooled to.

    Raises:
        InteropError: the backbone or the box head is none that is shipped here, or its norms differ
            among each other.
    """
    norm, norm_eps = _read_norms(model)
    head = model.roi_heads.box_head
    parts = model.backbone.modules()
    pyramid = any(isinstance(part, FeaturePyramidNetwork) for part in parts)
    for name in (name for name in SHIPPED if name.endswith("_fpn") == pyramid):
        settings = BackboneSettings(
            name=name,
            norm=norm,
            frozen_stages=0,
            dropout=0.0,
            weights=None,
            hidden=model.roi_heads.box_predictor.cls_score.in_features,
            fpn_channels=model.backbone.out_channels if pyramid else 256,
            norm_eps=norm_eps,
        )
        outline = _outline(settings, pooled_size)
        if signature(outline.backbone) == signature(model.backbone):
            break
    else:
        raise InteropError(
            f"The backbone, a {type(model.backbone).__name__}, is not supported. Supported are "
            f"{', '.join(SHIPPED)} as torchvision builds them: those with a pyramid from its "
            "builders, vgg16.features[:-1], and a ResNet up to layer3."
        )
    if signature(outline.box_head) != signature(head):
        raise InteropError(
            f"The box head, a {type(head).__name__}, is not supported behind the backbone "
            f"{name!r}. Supported is {_spell(outline, pooled_size)}."
        )
    if isinstance(outline.box_head, TwoMLPHead):
        dropout = read_dropout(head, outline.backbone.channels, pooled_size)
        if dropout and not name.startswith("vgg"):
            raise InteropError(f"Dropout in the box head is not supported behind {name!r}.")
        settings = dataclasses.replace(settings, dropout=dropout)
    else:
        settings = dataclasses.replace(settings, hidden=None)  # the head has no layer of that width
    return dataclasses.replace(settings, frozen_stages=_frozen_stages(model, settings, pooled_size))


def _outline(settings: BackboneSettings, pooled_size: int) -> SplitNetwork:
    """Return a backbone whose tensors have shapes but no values."""
    with torch.device("meta"):
        return build_network(settings, pooled_size**2)


def _read_norms(model: FasterRCNN) -> tuple[Literal["batch", "frozen"], float]:
    """Return the kind and the epsilon that all norms of a detector share."""
    norms = [layer for layer in model.modules() if hasattr(layer, "running_mean")]
    kinds = {(type(layer), layer.eps) for layer in norms}
    if len(kinds) > 1:
        listed = " and ".join(sorted(f"{kind.__name__} with eps={eps}" for kind, eps in kinds))
        raise InteropError(
            f"The norms differ among each other, which is not supported: {listed}. Supported are "
            "BatchNorm2d alone or FrozenBatchNorm2d alone, with one eps."
        )
    if not norms:
        return "batch", BackboneSettings.norm_eps
    kind, eps = kinds.pop()
    if kind not in (nn.BatchNorm2d, FrozenBatchNorm2d):
        raise InteropError(
            f"The norm {kind.__name__} is not supported; BatchNorm2d and FrozenBatchNorm2d are."
        )
    return ("batch" if kind is nn.BatchNorm2d else "frozen"), float(eps)


def _frozen_stages(model: FasterRCNN, settings: BackboneSettings, pooled_size: int) -> int:
    """Return how many leading stages hold no parameter that learns."""
    outline = _outline(settings, pooled_size)
    resting = {f"backbone.{name}" for name in _resting(outline.backbone, model.backbone)}
    resting |= {f"box_head.{name}" for name in _resting(outline.box_head, model.roi_heads.box_head)}
    stages = 0
    while resting:
        try:
            fewer = _outline(dataclasses.replace(settings, frozen_stages=stages + 1), pooled_size)
        except SettingsError:  # there are no more stages
            break
        if not _learning(outline) - _learning(fewer) <= resting:
            break
        stages += 1
    return stages


def _resting(ours: nn.Module, theirs: nn.Module) -> set[str]:
    """Return our names of the parameters that do not learn there."""
    parameters = dict(theirs.named_parameters())
    return {
        name
        for name, key in pair_keys(ours, theirs).items()
        if key in parameters and not parameters[key].requires_grad
    }


def _learning(network: SplitNetwork) -> set[str]:
    return {
        f"{part}.{name}"
        for part, module in (("backbone", network.backbone), ("box_head", network.box_head))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _spell(network: SplitNetwork, pooled_size: int) -> str:
    box_head, channels = network.box_head, network.backbone.channels
    if isinstance(box_head, TwoMLPHead):
        return (
            f"TwoMLPHead({channels} * {pooled_size}**2, width), or a module of the same two linear "
            "layers, each followed by ReLU and perhaps dropout, with the box predictor's width"
        )
    return "layer4 of the same network followed by the mean over its cells"
