"""Weights of torchvision's Faster R-CNN: taken over, read from files, and given back.

Letters: T anchors of a cell, made of S sizes and R ratios; C channels.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import detection, get_model
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.interop.settings import (
    COUNT,
    InteropError,
    name_tensors,
    read_settings,
    torchvision_key,
)
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import TORCHVISION
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.roi_heads import eval_mode
from rcnn.settings import SettingsError, nearest, require

BUILDERS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
"""The functions of ``torchvision.models.detection`` that build a supported model."""

CLASSIFIER = "roi_heads.box_predictor.cls_score.bias"

ANCHOR_CHANNELS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.")
"""The layers in which each anchor of a cell has output channels of its own."""


def from_torchvision(model: nn.Module, class_names: Sequence[str] | None = None) -> FasterRCNN:
    """Return a detector that finds and learns what a torchvision Faster R-CNN does.

    All settings are read off the model and all weights are copied; the model stays as it is. See
    ``rcnn.interop.settings`` for the models that are supported.

    Four things have no counterpart. Of several values of ``min_size`` only the last is taken, which
    torchvision evaluates with. Leading stages of the backbone that do not learn become
    ``frozen_stages``, in which norms count no statistics; any other parameter learns. Batch norms
    have the momentum 0.1. ``uint8`` images are rounded again after resizing, so that only images of
    numbers in 0..1 give equal results.

    Args:
        model: a ``torchvision.models.detection.FasterRCNN``.
        class_names: names of the classes 1..K; null: COCO's for 91 rows (its unused ids are called
            "N/A 12" and so on, by their id), otherwise "class 1" to "class K".

    Returns:
        A detector on the model's device and in its mode (training or evaluation).

    Raises:
        InteropError: a part or a setting of the model has no counterpart here; the message names it
            and what is supported.
    """
    if not isinstance(model, detection.FasterRCNN):
        raise InteropError(
            f"A torchvision.models.detection.FasterRCNN is needed, not a {type(model).__name__}."
        )
    names = _name_classes(class_names, len(model.state_dict()[CLASSIFIER]))
    try:
        detector = FasterRCNN(read_settings(model, names))
    except SettingsError as error:
        raise InteropError(f"A setting of the model is not supported: {error}") from error
    _copy_weights(model, detector)
    detector.to(next(model.parameters()).device)
    _compare(model, detector)
    return detector.train(model.training)


def load_torchvision(
    source: str | Path | Mapping[str, Tensor],
    builder: str,
    class_names: Sequence[str] | None = None,
    norm_eps: float | None = None,
) -> FasterRCNN:
    """Return a detector with the weights of a torchvision detector's state dict.

    A state dict with frozen norms gives frozen norms. No stage is frozen beyond that (torchvision
    freezes the first ones when it trains on from such a file).

    Args:
        source: a state dict, or the path of its file, as ``torch.save`` writes it (``.pth``).
        builder: name of the function of ``torchvision.models.detection`` that builds the model. Its
            defaults become the settings; only the number of classes comes from the state dict.
        class_names: names of the classes 1..K; null: as in ``from_torchvision``.
        norm_eps: epsilon of the norms, which no state dict holds. It is required for
            ``fasterrcnn_resnet50_fpn`` with frozen norms, except for the released COCO weights:
            torchvision has 0.0 in models that started from those, and 1e-5 in others.

    Raises:
        InteropError: there is no such file, it holds no state dict, its tensors are not those of
            the builder's model, the builder is not supported, or ``norm_eps`` is missing.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source).expanduser())
    model = _build(state, builder, norm_eps)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise InteropError(f"The state dict does not fit {builder}: {message}") from error
    return from_torchvision(model.eval(), class_names)


def to_torchvision_state_dict(detector: FasterRCNN) -> dict[str, Tensor]:
    """Return the weights by torchvision's keys, as copies.

    They fit a torchvision detector of the same settings around ``resnet_fpn_backbone`` or the
    backbone of a ``fasterrcnn_*_fpn``; around ``vgg16().features[:-1]`` and a ``TwoMLPHead``; or
    around ``IntermediateLayerGetter(resnet, {"layer3": "0"})`` and a head with ``layer4``. A
    softmax over (background, object) becomes the sigmoid of their difference, which is the same
    function. Torchvision's ``bbox_reg_weights`` have to be one over ``deltas.std``: 10, 10, 5, 5
    for the default.

    Args:
        detector: a detector with a shipped backbone.

    Raises:
        SettingsError: torchvision's detectors cannot express a setting.
    """
    _check_expressible(detector)
    order = _anchor_order(detector.settings.anchors)
    state = {}
    for key, tensor in detector.state_dict().items():
        if key.startswith("rpn.head.cls_logits.") and detector.settings.rpn.objectness == "softmax":
            background, object_ = tensor.chunk(2)
            tensor = object_ - background
        if key.startswith(ANCHOR_CHANNELS):
            tensor = _reorder(tensor, order)
        state[torchvision_key(key)] = tensor.detach().clone()
    return state


def _copy_weights(model: detection.FasterRCNN, detector: FasterRCNN) -> None:
    """Copy every tensor of ``model`` to the same layer of ``detector``."""
    theirs = name_tensors(model.state_dict())
    pairs = {key: torchvision_key(key) for key in detector.state_dict()}
    # A stage that is frozen here counts no batches.
    surplus = sorted(k for k in theirs.keys() - pairs.values() if not k.endswith(COUNT))
    missing = sorted(pairs.values() - theirs.keys())
    if missing or surplus:
        raise InteropError(
            f"Some tensors have no counterpart: the model lacks {missing or 'none'}, and has "
            f"{surplus or 'none'} in addition."
        )
    order = _anchor_order(detector.settings.anchors).argsort()
    state = {key: theirs[other] for key, other in pairs.items()}
    for key in filter(lambda key: key.startswith(ANCHOR_CHANNELS), state):
        state[key] = _reorder(state[key], order)
    detector.load_state_dict(state)


@torch.no_grad()
def _compare(model: detection.FasterRCNN, detector: FasterRCNN) -> None:
    """Refuse a model with another backbone, another box head, or other pooled levels.

    Keys and shapes of tensors do not show strides, activations and the order of layers. Equal
    results on noise, 2 x 3 cells of stride 32, do.
    """
    generator = torch.Generator().manual_seed(0)
    channels, side = detector.backbone.channels, detector.settings.pooling.size
    device = next(model.parameters()).device
    pixels = torch.randn(1, 3, 64, 96, generator=generator).to(device)
    pooled = torch.randn(2, channels, side, side, generator=generator).to(device)
    with eval_mode(model), eval_mode(detector):
        levels = model.backbone(pixels)
        levels = {"0": levels} if isinstance(levels, Tensor) else levels
        vectors = model.roi_heads.box_head(pooled).flatten(1)
        both = zip(levels.values(), detector.backbone(pixels), strict=False)
        compared = [("backbone", there, here) for there, here in both]
        compared.append(("roi_heads.box_head", vectors, detector.roi_heads.box_head(pooled)))
    for path, there, here in compared:
        tolerance = 1e-3 * here.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
        if (
            there.shape != here.shape
            or not torch.isclose(there, here, rtol=0, atol=tolerance, equal_nan=True).all()
        ):
            raise InteropError(
                f"{path} is not supported: it has the tensors of a "
                f"{detector.settings.backbone.name} but computes something else. Supported is "
                "torchvision's own network, its layers in their order."
            )
    wanted = model.roi_heads.box_roi_pool.featmap_names
    expected = list(levels)[: detector.backbone.roi_levels]
    if [name for name in levels if name in wanted] != expected:
        raise InteropError(
            f"roi_heads.box_roi_pool is not supported: it has featmap_names={wanted}. Supported is "
            f"{expected}."
        )


def _anchor_order(anchors: AnchorSettings) -> Int[Tensor, " T"]:
    """Return, for each anchor of a cell in torchvision's order, its index here.

    Torchvision lists the anchors of a cell by ratio, then size; here it is size, then ratio.
    """
    ratios = len(anchors.ratios)
    return torch.arange(anchors.per_cell).view(-1, ratios).T.flatten()


def _reorder(tensor: Float[Tensor, "C ..."], order: Int[Tensor, " T"]) -> Float[Tensor, "C ..."]:
    """Return weights or biases with the channels of each anchor, C = T x n, in another order."""
    # (T n, ...) -> (T, n, ...) -> (T n, ...)
    reordered: Tensor = tensor.unflatten(0, (len(order), -1))[order].flatten(0, 1)
    return reordered


def _name_classes(given: Sequence[str] | None, rows: int) -> tuple[str, ...]:
    """Return the names of the classes 1..K for a classifier of K + 1 rows."""
    if given is None:
        coco = _coco_names()
        return coco if rows == len(coco) + 1 else tuple(f"class {i}" for i in range(1, rows))
    if isinstance(given, str) or len(given) != rows - 1:
        raise InteropError(
            f"class_names={given!r} is not possible: the model has {rows} rows, so it takes a list "
            f"of {rows - 1} names; background is row 0 and has none."
        )
    return tuple(given)


def _coco_names() -> tuple[str, ...]:
    """Return names of COCO's 90 category ids; those of the ten unused ones, "N/A 12", differ."""
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(
        f"N/A {label}" if name == "N/A" else name for label, name in enumerate(names) if label > 0
    )


def _build(
    state: Mapping[str, Tensor], builder: str, norm_eps: float | None
) -> detection.FasterRCNN:
    """Build torchvision's model with as many classes and with the norms that the weights have."""
    if builder not in BUILDERS:
        raise InteropError(
            f"builder={builder!r} is not supported{nearest(builder, BUILDERS)} "
            f"Supported are {', '.join(BUILDERS)}."
        )
    if CLASSIFIER not in state:
        raise InteropError(
            f"The state dict is not one of a torchvision Faster R-CNN: it has no {CLASSIFIER}, but "
            f"{', '.join(list(state)[:3])} ..."
        )
    rows = len(state[CLASSIFIER])
    model: detection.FasterRCNN = get_model(
        builder, weights=None, weights_backbone=None, num_classes=rows
    )
    frozen = not any(key.endswith(COUNT) for key in state)
    if frozen:
        freeze_norms(model)
    if frozen and builder == "fasterrcnn_resnet50_fpn" and norm_eps is None:
        if rows != len(_coco_names()) + 1:
            raise InteropError(
                "norm_eps is required: the state dict has frozen norms, but does not hold their "
                "epsilon. Torchvision has norm_eps=0.0 in a fasterrcnn_resnet50_fpn that started "
                "from its COCO weights, and norm_eps=1e-5 in one that did not."
            )
        norm_eps = 0.0
    for layer in model.modules():
        if norm_eps is not None and isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            layer.eps = norm_eps
    return model


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file; for a training checkpoint that of its model."""
    if not path.is_file():
        raise InteropError(f"There is no file {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        message = " ".join(str(error).split())
        raise InteropError(
            f"{path} cannot be read: it is broken, or it holds more than tensors (save "
            f"model.state_dict() alone). The reader says: {message}"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    values = list(content.values()) if isinstance(content, Mapping) else []
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise InteropError(f"{path} holds no state dict: a mapping from names to tensors.")
    return dict(content)


def _check_expressible(detector: FasterRCNN) -> None:
    """Refuse what torchvision's modules do not compute."""
    settings, channels = detector.settings, detector.backbone.channels
    rpn, predictor, deltas = settings.rpn, settings.box_predictor, settings.deltas
    known = settings.backbone.name in TORCHVISION
    require(known, "backbone.name", settings.backbone.name, f"supported: {', '.join(TORCHVISION)}")
    only: dict[str, tuple[object, object]] = {
        "backbone.ranks": (settings.backbone.ranks, None),
        "rpn.branches": (rpn.branches, "shared"),
        "rpn.channels": (rpn.channels or channels, channels),
        "box_predictor.class_agnostic": (predictor.class_agnostic, False),
        "box_predictor.box_regression": (predictor.box_regression, True),
        "box_predictor.classifier": (predictor.classifier, "softmax"),
        "deltas.mean": (deltas.mean, (0.0, 0.0, 0.0, 0.0)),
        "deltas.class_means": (deltas.class_means, None),
    }
    for key, (value, supported) in only.items():
        require(value == supported, key, value, f"torchvision's detectors have {supported!r}")
