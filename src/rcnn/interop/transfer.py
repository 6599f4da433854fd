"""Copies weights between torchvision's detectors and those of the same settings here."""

from __future__ import annotations

from torch import Tensor
from torchvision.models import detection

from rcnn.interop.errors import InteropError
from rcnn.interop.layout import (
    ANCHOR_CHANNELS,
    COMPONENTS,
    COUNT,
    anchor_order,
    pair_keys,
    reorder_channels,
    signature,
)
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import SHIPPED
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import require


def copy_weights(model: detection.FasterRCNN, detector: FasterRCNN) -> None:
    """Copy every tensor of ``model`` to its place in ``detector``.

    Raises:
        InteropError: a tensor on either side has no counterpart on the other.
    """
    ours, theirs = detector.state_dict(), model.state_dict()
    pairs = _pair(detector, model)
    missing = [key for key in ours if key not in pairs]
    # Stages that are frozen here count no batches.
    taken = set(pairs.values())
    surplus = [key for key in theirs if key not in taken and not key.endswith(COUNT)]
    if missing or surplus:
        raise InteropError(
            "Some tensors have no counterpart. "
            f"Torchvision's: {surplus or 'none'}; those of rcnn: {missing or 'none'}."
        )
    order = _torchvision_order(detector.settings.anchors).argsort()
    state = {key: theirs[other] for key, other in pairs.items()}
    for key in state:
        if key.startswith(ANCHOR_CHANNELS):
            state[key] = reorder_channels(state[key], order)
    detector.load_state_dict(state)


def to_torchvision_state_dict(detector: FasterRCNN) -> dict[str, Tensor]:
    """Return the weights under torchvision's keys, as copies.

    They fit a torchvision detector that is assembled with the same settings: around
    ``fasterrcnn_*_fpn`` or ``resnet_fpn_backbone``; around ``vgg16().features[:-1]`` and a
    ``TwoMLPHead``; or around ``IntermediateLayerGetter(resnet, {"layer3": "0"})`` and a head with
    ``layer4``. A softmax over (background, object) becomes the sigmoid of the difference, which is
    the same function. Torchvision's ``bbox_reg_weights`` have to be one over ``deltas.std``: its
    10, 10, 5, 5 for the default, 1 for a detector from :func:`rcnn.load`.

    Args:
        detector: with a shipped backbone.

    Raises:
        SettingsError: torchvision's detectors cannot express a setting.
    """
    settings = detector.settings
    _check_expressible(detector)
    order = _torchvision_order(settings.anchors)
    state = {}
    for key, tensor in detector.state_dict().items():
        if key.startswith("rpn.objectness.") and settings.rpn.objectness == "softmax":
            background, object_ = tensor.chunk(2)
            tensor = object_ - background
        if key.startswith(ANCHOR_CHANNELS):
            tensor = reorder_channels(tensor, order)
        state[_torchvision_key(key)] = tensor.detach().clone()
    return state


def _pair(detector: FasterRCNN, model: detection.FasterRCNN) -> dict[str, str]:
    """Return torchvision's key for each of ours."""
    pairs: dict[str, str] = {}
    for prefix, other_prefix in COMPONENTS:
        ours = detector.get_submodule(prefix.rstrip("."))
        theirs = model.get_submodule(other_prefix.rstrip("."))
        if signature(ours) != signature(theirs):
            raise InteropError(
                f"{other_prefix}* cannot be copied to {prefix}*: torchvision's tensors are "
                f"{signature(theirs)}, those of rcnn are {signature(ours)}."
            )
        pairs |= {
            prefix + key: other_prefix + other for key, other in pair_keys(ours, theirs).items()
        }
    statistic = "running_var"
    for key in detector.state_dict():
        if key.endswith(COUNT):
            sibling = pairs[key.removesuffix(COUNT) + statistic]
            pairs[key] = sibling.removesuffix(statistic) + COUNT
    return pairs


def _torchvision_order(anchors: AnchorSettings) -> Tensor:
    ratios = len(anchors.ratios)
    return anchor_order(anchors.per_cell // ratios, ratios)


def _torchvision_key(key: str) -> str:
    layout = (
        ("backbone.features.", "backbone."),
        *COMPONENTS,
    )  # VGG's layers are the backbone itself
    return next(
        other + key.removeprefix(prefix) for prefix, other in layout if key.startswith(prefix)
    )


def _check_expressible(detector: FasterRCNN) -> None:
    """Refuse what torchvision's modules do not compute."""
    settings = detector.settings
    name, rpn = settings.backbone.name, settings.rpn
    require(
        name in SHIPPED,
        "backbone.name",
        name,
        f"torchvision's layout is known for {', '.join(SHIPPED)}",
    )
    require(rpn.branches == "shared", "rpn.branches", rpn.branches, "torchvision has 'shared' only")
    channels = detector.backbone.channels
    require(
        rpn.channels in (None, channels),
        "rpn.channels",
        rpn.channels,
        f"torchvision has as many as the backbone, {channels}",
    )
    agnostic = settings.box_predictor.class_agnostic
    require(not agnostic, "head.class_agnostic", agnostic, "torchvision has one box per class")
    head, measured = settings.box_predictor, settings.deltas.class_means
    allowed = "torchvision always predicts boxes"
    require(head.box_regression, "head.box_regression", head.box_regression, allowed)
    allowed = "torchvision has a softmax"
    require(head.classifier == "softmax", "head.classifier", head.classifier, allowed)
    allowed = "torchvision has one normalisation for all classes; use rcnn.load, which folds it in"
    require(measured is None, "deltas.class_means", measured, allowed)
    ranks = settings.backbone.ranks
    require(ranks is None, "backbone.ranks", ranks, "torchvision has whole layers")
    mean = settings.deltas.mean
    require(not any(mean), "deltas.mean", mean, "torchvision has zeros")
