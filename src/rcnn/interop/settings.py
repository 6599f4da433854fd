"""The settings of a torchvision Faster R-CNN, read off the model stage by stage.

Supported are torchvision's builders ``fasterrcnn_resnet50_fpn``,
``fasterrcnn_mobilenet_v3_large_fpn`` and ``fasterrcnn_mobilenet_v3_large_320_fpn``, the pyramids
that ``resnet_fpn_backbone`` builds, VGG-16 without its last pooling, and a ResNet up to ``layer3``
("C4"). Any other part is refused by its name.

What torchvision has in its code instead of in its attributes (the knees of its losses, the
smallest detection) is a constant here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import TORCHVISION, BackboneSettings, build_network
from rcnn.model.backbones.backbone import RESNETS
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.ops.deltas import LARGEST_LOG_RATIO
from rcnn.settings import SettingsError

V = TypeVar("V")

PARTS: dict[str, type[nn.Module]] = {
    "transform": GeneralizedRCNNTransform,
    "rpn": RegionProposalNetwork,
    "rpn.anchor_generator": AnchorGenerator,
    "rpn.head": RPNHead,
    "roi_heads": RoIHeads,
    "roi_heads.box_roi_pool": MultiScaleRoIAlign,
    "roi_heads.box_predictor": FastRCNNPredictor,
}
"""The parts of a model that are settings and code. A subclass may behave otherwise."""

RENAMED: dict[str, str] = {
    "rpn.head.conv.": "rpn.head.conv.0.0.",
    "backbone.features.": "backbone.",  # VGG-16, where torchvision has the layers themselves
}
"""The keys of a state dict that differ: how they begin here, and how in torchvision."""

C4_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
"""The layers of a ResNet that becomes an ``nn.Sequential``, which only numbers them."""

COUNT = "num_batches_tracked"
"""The entry of a batch norm's state that frozen norms do not have."""


class InteropError(ValueError):
    """A model or a file of torchvision that has no exact counterpart here."""


def read_settings(model: FasterRCNN, class_names: tuple[str, ...]) -> DetectorSettings:
    """Return the settings with which a detector of this package computes what ``model`` does.

    Args:
        model: a detector of torchvision.
        class_names: names of the classes 1..K.

    Raises:
        InteropError: a part or a setting of the model has no counterpart here.
        SettingsError: a value is out of range here.
    """
    _check_parts(model)
    transform, rpn, heads = model.transform, model.rpn, model.roi_heads
    generator, pool = rpn.anchor_generator, heads.box_roi_pool
    x, y, width, height = heads.box_coder.weights
    return DetectorSettings(
        class_names=class_names,
        images=ImageSettings(
            shorter_side=transform.min_size[-1],  # evaluation's; training draws one of several
            longer_side=transform.max_size,
            multiple=transform.size_divisible,
            mean=_three(transform.image_mean),
            std=_three(transform.image_std),
            channels="rgb",
            antialias=False,
        ),
        backbone=read_backbone(model),
        anchors=AnchorSettings(
            ratios=tuple(map(float, generator.aspect_ratios[0])),
            sizes=tuple(tuple(map(float, level)) for level in generator.sizes),
            offset=0.0,
            rounding="nearest",
            spacing="grid",
        ),
        rpn=RPNSettings(channels=None, branches="shared", objectness="sigmoid"),
        anchor_sampling=AnchorSampling(
            positive_iou=float(rpn.proposal_matcher.high_threshold),
            negative_iou=float(rpn.proposal_matcher.low_threshold),
            low_quality_margin=0.0,
            skip_border_anchors=False,
            samples=rpn.fg_bg_sampler.batch_size_per_image,
            positive_fraction=float(rpn.fg_bg_sampler.positive_fraction),
        ),
        proposals=ProposalSettings(
            before_nms_train=rpn._pre_nms_top_n["training"],
            after_nms_train=rpn._post_nms_top_n["training"],
            before_nms_test=rpn._pre_nms_top_n["testing"],
            after_nms_test=rpn._post_nms_top_n["testing"],
            nms_iou=float(rpn.nms_thresh),
            min_size=float(rpn.min_size),
            score=float(rpn.score_thresh),
        ),
        roi_sampling=RoISampling(
            samples=heads.fg_bg_sampler.batch_size_per_image,
            samples_per="image",
            foreground_fraction=float(heads.fg_bg_sampler.positive_fraction),
            foreground_iou=float(heads.proposal_matcher.high_threshold),
            background_low=0.0,
            background_high=float(heads.proposal_matcher.low_threshold),
            append_gt=True,
            pad_with="nothing",
        ),
        deltas=DeltaSettings(std=(1 / x, 1 / y, 1 / width, 1 / height)),
        pooling=PoolingSettings(
            kind="roi_align",
            size=pool.output_size[0],
            sampling_ratio=max(pool.sampling_ratio, 0),  # torchvision's "adaptive" is any below 1
            aligned=False,
            canonical_size=float(pool.canonical_scale),
            canonical_level=pool.canonical_level,
        ),
        losses=LossSettings(rpn_box_beta=1 / 9, roi_box_beta=1 / 9),
        detections=DetectionSettings(
            score=float(heads.score_thresh),
            nms_iou=float(heads.nms_thresh),
            per_image=heads.detections_per_img,
            min_size=1e-2,
        ),
    )


def read_backbone(model: FasterRCNN) -> BackboneSettings:
    """Return settings that build the backbone and the box head of ``model``.

    The keys and shapes of the tensors decide which backbone it is. ``frozen_stages`` counts the
    leading stages in which no parameter learns.

    Raises:
        InteropError: the backbone or the box head is not supported, or the norms of the model
            differ from each other.
    """
    norm, norm_eps = _norms(model)
    backbone, head = model.backbone, model.roi_heads.box_head
    size, mlp = model.roi_heads.box_roi_pool.output_size[0], type(head) is TwoMLPHead
    tensors = name_tensors(model.state_dict())
    parts = "backbone.", "roi_heads.box_head."
    shapes = _shapes({key: value for key, value in tensors.items() if key.startswith(parts)})
    pyramid = any(key.startswith("backbone.fpn.") for key in shapes)
    for name in (name for name in TORCHVISION if name.endswith("_fpn") == pyramid):
        settings = BackboneSettings(
            name=name,
            norm=norm,
            frozen_stages=0,
            box_head="two_mlp" if mlp and name in RESNETS else "own",
            dropout=0.0,
            weights=None,
            hidden=model.roi_heads.box_predictor.cls_score.in_features if mlp else None,
            fpn_channels=backbone.out_channels if pyramid else 256,
            norm_eps=norm_eps,
        )
        network = _network(settings, size)
        if _shapes(network.state_dict()) == shapes:
            return _with_frozen_stages(model, settings, network)
    raise InteropError(
        f"backbone or roi_heads.box_head is not supported: a {type(backbone).__name__} and a "
        f"{type(head).__name__} have other tensors than {', '.join(TORCHVISION)} have as "
        "torchvision builds them: those with a pyramid by fasterrcnn_*_fpn; vgg16().features[:-1] "
        "before a TwoMLPHead; a ResNet up to layer3 before one or before a module with its layer4."
    )


def torchvision_key(key: str) -> str:
    """Return torchvision's name of a tensor in the state dict of a detector of this package."""
    for ours, theirs in RENAMED.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def name_tensors(tensors: dict[str, V]) -> dict[str, V]:
    """Return the tensors of a torchvision detector with the layers of a ResNet by their names.

    ``nn.Sequential(resnet.conv1, resnet.bn1, ...)`` only numbers them.
    """
    if "backbone.4.0.conv1.weight" not in tensors:
        return tensors

    def named(found: re.Match[str]) -> str:
        return f"backbone.{C4_LAYERS[int(found[1])]}."

    return {re.sub(r"^backbone\.(\d)\.", named, key): value for key, value in tensors.items()}


def _network(settings: BackboneSettings, pooled_size: int) -> nn.Module:
    """Return backbone and box head, whose tensors have names and shapes but no values."""
    with torch.device("meta"):
        network = build_network(settings, pooled_size**2)
    heads = nn.ModuleDict({"box_head": network.box_head})
    return nn.ModuleDict({"backbone": network.backbone, "roi_heads": heads})


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return the shapes by torchvision's keys."""
    return {torchvision_key(k): t.shape for k, t in tensors.items() if not k.endswith(COUNT)}


def _with_frozen_stages(
    model: FasterRCNN, settings: BackboneSettings, network: nn.Module
) -> BackboneSettings:
    """Return the settings with the number of leading stages that hold no learning parameter."""
    parameters = name_tensors(dict(model.named_parameters()))
    resting = {key for key, parameter in parameters.items() if not parameter.requires_grad}
    while True:
        try:
            more = replace(settings, frozen_stages=settings.frozen_stages + 1)
            learning = _learning(_network(more, model.roi_heads.box_roi_pool.output_size[0]))
        except SettingsError:  # the network has no more stages
            return settings
        if not _learning(network) - learning <= resting:
            return settings
        settings = more


def _learning(network: nn.Module) -> set[str]:
    return {torchvision_key(key) for key, p in network.named_parameters() if p.requires_grad}


def _norms(model: FasterRCNN) -> tuple[Literal["batch", "frozen"], float | None]:
    """Return the kind and the epsilon that all norms of a detector share."""
    norms = [layer for layer in model.modules() if hasattr(layer, "running_mean")]
    kinds = {(type(layer), float(layer.eps)) for layer in norms}
    if not kinds:
        return "batch", None
    if len(kinds) > 1 or not {kind for kind, _ in kinds} <= {nn.BatchNorm2d, FrozenBatchNorm2d}:
        listed = " and ".join(sorted(f"{kind.__name__} with eps={eps}" for kind, eps in kinds))
        raise InteropError(
            f"backbone's norm is not supported: it is {listed}. Supported is BatchNorm2d alone or "
            "FrozenBatchNorm2d alone, with one eps."
        )
    kind, eps = kinds.pop()
    return ("batch" if kind is nn.BatchNorm2d else "frozen"), eps


def _check_parts(model: FasterRCNN) -> None:
    """Refuse a detector with a part or a setting that has no counterpart here."""
    for path, kind in PARTS.items():
        _demand(path, type(model.get_submodule(path)).__name__, kind.__name__)
    transform, rpn, heads = model.transform, model.rpn, model.roi_heads
    generator, predictor, pool = rpn.anchor_generator, heads.box_predictor, heads.box_roi_pool
    sizes, ratios = (
        [len(level) for level in generator.sizes],
        [*map(tuple, generator.aspect_ratios)],
    )
    dropout = [path for path, part in model.named_modules() if isinstance(part, nn.Dropout)]
    only: dict[str, tuple[object, object]] = {
        "transform.fixed_size": (transform.fixed_size, None),
        "transform._skip_resize": (transform._skip_resize, False),
        "number of convolutions in rpn.head.conv": (len(rpn.head.conv), 1),
        "number of rpn.anchor_generator.sizes of each level": (sizes, sizes[:1] * len(sizes)),
        "rpn.anchor_generator.aspect_ratios": (ratios, ratios[:1] * len(ratios)),
        "rpn.box_coder.weights": (tuple(rpn.box_coder.weights), (1.0, 1.0, 1.0, 1.0)),
        "rpn.box_coder.bbox_xform_clip": (rpn.box_coder.bbox_xform_clip, LARGEST_LOG_RATIO),
        "roi_heads.box_coder.bbox_xform_clip": (heads.box_coder.bbox_xform_clip, LARGEST_LOG_RATIO),
        "a mask or keypoint head in roi_heads": (heads.has_mask() or heads.has_keypoint(), False),
        "roi_heads.box_roi_pool.output_size": (pool.output_size, pool.output_size[:1] * 2),
        "roi_heads.box_predictor.bbox_pred.out_features": (
            predictor.bbox_pred.out_features,
            4 * predictor.cls_score.out_features,
        ),
        "dropout": (dropout, []),
        "dtype of the parameters": ({p.dtype for p in model.parameters()}, {torch.float32}),
    }
    for path, (value, supported) in only.items():
        _demand(path, value, supported)


def _demand(path: str, value: object, supported: object) -> None:
    if value != supported:
        raise InteropError(f"{path} is not supported: it is {value!r}. Supported is {supported!r}.")


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
