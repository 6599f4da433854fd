"""The settings of a torchvision Faster R-CNN, read off the model stage by stage.

Supported are torchvision's builders ``fasterrcnn_resnet50_fpn``,
``fasterrcnn_mobilenet_v3_large_fpn`` and ``fasterrcnn_mobilenet_v3_large_320_fpn``, the pyramids
that ``resnet_fpn_backbone`` builds, and two models that people assemble by hand: VGG-16 without its
last pooling, and a ResNet up to ``layer3`` ("C4"). Any other part is refused by its name.

What torchvision has in its code instead of in its attributes (the knees of its losses, the
smallest detection) is a constant here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
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
Shapes = dict[str, tuple[int, ...]]

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
    rpn, heads = model.rpn, model.roi_heads
    return DetectorSettings(
        class_names=class_names,
        images=_images(model.transform),
        backbone=read_backbone(model),
        anchors=_anchors(rpn.anchor_generator),
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
        deltas=_deltas(heads.box_coder),
        pooling=_pooling(heads.box_roi_pool),
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
    found = _without_counts(name_tensors(model, model.state_dict()))
    shapes = {key: tuple(tensor.shape) for key, tensor in found}
    head, size = model.roi_heads.box_head, _pooled_size(model.roi_heads.box_roi_pool)
    mlp, pyramid = type(head) is TwoMLPHead, any(key.startswith("backbone.fpn.") for key in shapes)
    for name in (name for name in TORCHVISION if name.endswith("_fpn") == pyramid):
        settings = BackboneSettings(
            name=name,
            norm=norm,
            frozen_stages=0,
            box_head="two_mlp" if mlp and name in RESNETS else "own",
            dropout=0.0,
            weights=None,
            hidden=model.roi_heads.box_predictor.cls_score.in_features if mlp else None,
            fpn_channels=model.backbone.out_channels if pyramid else 256,
            norm_eps=norm_eps,
        )
        expected, _ = _outline(settings, size)
        if _part("backbone.", expected) == _part("backbone.", shapes):
            break
    else:
        raise InteropError(
            f"backbone is not supported: it is a {type(model.backbone).__name__} with other "
            f"tensors than {', '.join(TORCHVISION)} have as torchvision builds them: those with a "
            "pyramid by fasterrcnn_*_fpn, vgg16().features[:-1], and a ResNet up to layer3."
        )
    supported = "torchvision's TwoMLPHead, or behind a ResNet (C4) a module with its `layer4`"
    same = _part("roi_heads.box_head.", expected) == _part("roi_heads.box_head.", shapes)
    _demand(same, "roi_heads.box_head", f"a {type(head).__name__} behind {name}", supported)
    return dataclasses.replace(settings, frozen_stages=_frozen_stages(model, settings, size))


def torchvision_key(key: str) -> str:
    """Return torchvision's name of a tensor in the state dict of a detector of this package."""
    for ours, theirs in RENAMED.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def name_tensors(model: FasterRCNN, tensors: dict[str, V]) -> dict[str, V]:
    """Return the tensors of ``model`` with the layers of a ResNet by their names.

    ``nn.Sequential(resnet.conv1, resnet.bn1, ...)`` only numbers them.
    """
    if "backbone.4.0.conv1.weight" not in model.state_dict():
        return tensors
    names = {f"backbone.{i}.": f"backbone.{name}." for i, name in enumerate(C4_LAYERS)}
    return {
        next(
            (new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)), key
        ): value
        for key, value in tensors.items()
    }


def _outline(settings: BackboneSettings, pooled_size: int) -> tuple[Shapes, set[str]]:
    """Return a network's shapes by torchvision's keys, and the keys of what learns."""
    with torch.device("meta"):
        network = build_network(settings, pooled_size**2)
    shapes: Shapes = {}
    learning: set[str] = set()
    for prefix, module in (
        ("backbone.", network.backbone),
        ("roi_heads.box_head.", network.box_head),
    ):
        state = _without_counts(module.state_dict())
        shapes |= {torchvision_key(prefix + key): tuple(tensor.shape) for key, tensor in state}
        parameters = module.named_parameters()
        learning |= {torchvision_key(prefix + key) for key, p in parameters if p.requires_grad}
    return shapes, learning


def _frozen_stages(model: FasterRCNN, settings: BackboneSettings, pooled_size: int) -> int:
    """Return how many leading stages hold no parameter that learns."""
    parameters = name_tensors(model, dict(model.named_parameters()))
    resting = {key for key, parameter in parameters.items() if not parameter.requires_grad}
    _, all_keys = _outline(settings, pooled_size)
    stages = 0
    while True:
        try:
            more = dataclasses.replace(settings, frozen_stages=stages + 1)
            _, learning = _outline(more, pooled_size)
        except SettingsError:  # the network has no more stages
            return stages
        if not all_keys - learning <= resting:
            return stages
        stages += 1


def _norms(model: FasterRCNN) -> tuple[Literal["batch", "frozen"], float | None]:
    """Return the kind and the epsilon that all norms of a detector share."""
    norms = [layer for layer in model.modules() if hasattr(layer, "running_mean")]
    kinds = {(type(layer), float(layer.eps)) for layer in norms}
    listed = " and ".join(sorted(f"{kind.__name__} with eps={eps}" for kind, eps in kinds))
    supported = "BatchNorm2d alone or FrozenBatchNorm2d alone, with one eps"
    known = {kind for kind, _ in kinds} <= {nn.BatchNorm2d, FrozenBatchNorm2d}
    _demand(known and len(kinds) <= 1, "backbone's norm", listed, supported)
    if not kinds:
        return "batch", None
    kind, eps = kinds.pop()
    return ("batch" if kind is nn.BatchNorm2d else "frozen"), eps


def _check_parts(model: FasterRCNN) -> None:
    """Refuse a detector with a part that has no counterpart here."""
    for path, kind in PARTS.items():
        part = model.get_submodule(path)
        _demand(type(part) is kind, path, f"a {type(part).__name__}", kind.__name__)
    depth = len(model.rpn.head.conv)
    _demand(depth == 1, "rpn.head.conv", f"{depth} convolutions", "one")
    for path, layer in model.named_modules():
        _demand(not isinstance(layer, nn.Dropout), path, f"a {type(layer).__name__}", "no dropout")
    heads, coder = model.roi_heads, model.rpn.box_coder
    extra = heads.has_mask() or heads.has_keypoint()
    _demand(not extra, "roi_heads", "a mask or keypoint head", "boxes alone")
    same = tuple(coder.weights) == (1.0, 1.0, 1.0, 1.0)
    _demand(same, "rpn.box_coder.weights", coder.weights, "ones")
    clips = {coder.bbox_xform_clip, heads.box_coder.bbox_xform_clip}
    _demand(clips == {LARGEST_LOG_RATIO}, "box_coder.bbox_xform_clip", clips, "log(1000 / 16)")
    predictor = heads.box_predictor
    rows, numbers = predictor.cls_score.out_features, predictor.bbox_pred.out_features
    path = "roi_heads.box_predictor.bbox_pred"
    _demand(numbers == 4 * rows, path, f"{numbers} outputs", f"four for each of {rows} rows")
    dtypes = sorted({str(tensor.dtype) for tensor in model.parameters()})
    _demand(dtypes == ["torch.float32"], "the model", dtypes, "float32: call model.float()")


def _images(transform: GeneralizedRCNNTransform) -> ImageSettings:
    fixed, skip = transform.fixed_size, transform._skip_resize
    _demand(fixed is None, "transform.fixed_size", fixed, "None")
    _demand(not skip, "transform._skip_resize", skip, "False")
    return ImageSettings(
        shorter_side=transform.min_size[-1],  # evaluation's; training draws one of several
        longer_side=transform.max_size,
        multiple=transform.size_divisible,
        mean=_three(transform.image_mean),
        std=_three(transform.image_std),
        channels="rgb",
        antialias=False,
    )


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _anchors(generator: AnchorGenerator) -> AnchorSettings:
    sizes, ratios = generator.sizes, generator.aspect_ratios
    path = "rpn.anchor_generator"
    equal = len({len(level) for level in sizes}) == 1
    _demand(equal, f"{path}.sizes", sizes, "equally many on every level")
    same = len({tuple(level) for level in ratios}) == 1
    _demand(same, f"{path}.aspect_ratios", ratios, "the same on every level")
    return AnchorSettings(
        ratios=tuple(float(ratio) for ratio in ratios[0]),
        sizes=tuple(tuple(float(size) for size in level) for level in sizes),
        offset=0.0,
        rounding="nearest",
        spacing="grid",
    )


def _pooling(pool: MultiScaleRoIAlign) -> PoolingSettings:
    return PoolingSettings(
        kind="roi_align",
        size=_pooled_size(pool),
        sampling_ratio=max(pool.sampling_ratio, 0),  # torchvision's "adaptive" is any below 1
        aligned=False,
        canonical_size=float(pool.canonical_scale),
        canonical_level=pool.canonical_level,
    )


def _pooled_size(pool: MultiScaleRoIAlign) -> int:
    height, width = pool.output_size
    _demand(height == width, "roi_heads.box_roi_pool.output_size", (height, width), "a square")
    return int(height)


def _deltas(coder: BoxCoder) -> DeltaSettings:
    x, y, width, height = coder.weights
    return DeltaSettings(std=(1 / x, 1 / y, 1 / width, 1 / height))


def _without_counts(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((key, tensor) for key, tensor in tensors.items() if not key.endswith(COUNT))


def _part(prefix: str, shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _demand(condition: bool, path: str, value: object, supported: str) -> None:
    if not condition:
        raise InteropError(f"{path} is not supported: it has {value}. Supported is {supported}.")
