"""Reads the settings of every stage off a torchvision detector.

What is written in torchvision's code instead of in its attributes (the knees of its losses, the
smallest detection) stands here as a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from rcnn.interop.errors import InteropError
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.ops.deltas import LARGEST_LOG_RATIO

PARTS: dict[str, type[nn.Module]] = {
    "transform": GeneralizedRCNNTransform,
    "rpn": RegionProposalNetwork,
    "rpn.anchor_generator": AnchorGenerator,
    "rpn.head": RPNHead,
    "roi_heads": RoIHeads,
    "roi_heads.box_roi_pool": MultiScaleRoIAlign,
    "roi_heads.box_predictor": FastRCNNPredictor,
}
"""The parts whose behaviour is known here. A subclass may behave otherwise."""

LOSSES = LossSettings(rpn_box_beta=1 / 9, roi_box_beta=1 / 9)
SMALLEST_DETECTION = 1e-2


def check_parts(model: FasterRCNN) -> None:
    """Refuse a detector with a part that has no counterpart here.

    Raises:
        InteropError: naming the part, and what is supported.
    """
    for path, kind in PARTS.items():
        part = model.get_submodule(path)
        _demand(type(part) is kind, path, type(part).__name__, kind.__name__)
    depth = len(model.rpn.head.conv)
    _demand(depth == 1, "rpn.head.conv", f"{depth} convolutions", "one")
    heads = model.roi_heads
    _demand(not heads.has_mask(), "roi_heads", "a mask head", "boxes alone")
    _demand(not heads.has_keypoint(), "roi_heads", "a keypoint head", "boxes alone")
    _check_coder(model.rpn.box_coder, "rpn.box_coder")
    _check_coder(heads.box_coder, "roi_heads.box_coder")
    weights = tuple(model.rpn.box_coder.weights)
    _demand(weights == (1.0, 1.0, 1.0, 1.0), "rpn.box_coder.weights", weights, "ones")
    rows, numbers = (layer.out_features for layer in _outputs(heads.box_predictor))
    _demand(numbers == 4 * rows, "box_predictor.bbox_pred", numbers, f"four of each of {rows} rows")
    dtypes = {str(tensor.dtype) for tensor in model.parameters()}
    _demand(dtypes == {"torch.float32"}, "the model", sorted(dtypes), "float32: call model.float()")


def read_settings(
    model: FasterRCNN, backbone: BackboneSettings, class_names: tuple[str, ...]
) -> DetectorSettings:
    """Return the settings with which rcnn's detector does as ``model`` does.

    Args:
        model: whose parts are those of :func:`check_parts`.
        backbone: that of the model.
        class_names: of the classes 1..K.

    Raises:
        InteropError: for a setting that has no counterpart here.
    """
    rpn, heads = model.rpn, model.roi_heads
    return DetectorSettings(
        class_names=class_names,
        images=_images(model.transform),
        backbone=backbone,
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
        losses=LOSSES,
        detections=DetectionSettings(
            score=float(heads.score_thresh),
            nms_iou=float(heads.nms_thresh),
            per_image=heads.detections_per_img,
            min_size=SMALLEST_DETECTION,
        ),
    )


def _images(transform: GeneralizedRCNNTransform) -> ImageSettings:
    fixed, skip = transform.fixed_size, transform._skip_resize
    _demand(fixed is None, "transform.fixed_size", fixed, "None")
    _demand(not skip, "transform._skip_resize", skip, "False")
    return ImageSettings(
        shorter_side=transform.min_size[-1],  # that of evaluation; in training one is drawn
        longer_side=transform.max_size,
        multiple=transform.size_divisible,
        mean=_three(transform.image_mean),
        std=_three(transform.image_std),
        channels="rgb",
        antialias=False,
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _anchors(generator: AnchorGenerator) -> AnchorSettings:
    sizes, ratios = generator.sizes, generator.aspect_ratios
    key = "rpn.anchor_generator"
    counts = {len(level) for level in sizes}
    _demand(len(counts) == 1, f"{key}.sizes", sizes, "equally many on every level")
    same = all(tuple(level) == tuple(ratios[0]) for level in ratios)
    _demand(same, f"{key}.aspect_ratios", ratios, "the same on every level")
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
        size=pooled_size(pool),
        sampling_ratio=max(pool.sampling_ratio, 0),  # torchvision's "adaptive" is any below 1
        aligned=False,
        canonical_size=float(pool.canonical_scale),
        canonical_level=pool.canonical_level,
    )


def pooled_size(pool: MultiScaleRoIAlign) -> int:
    """Return the side of the grid of cells that each RoI is pooled to.

    Raises:
        InteropError: the grid is not square.
    """
    height, width = pool.output_size
    _demand(height == width, "roi_heads.box_roi_pool.output_size", (height, width), "a square")
    return int(height)


def _deltas(coder: BoxCoder) -> DeltaSettings:
    x, y, width, height = coder.weights
    return DeltaSettings(std=(1 / x, 1 / y, 1 / width, 1 / height))


def _check_coder(coder: BoxCoder, key: str) -> None:
    _demand(type(coder) is BoxCoder, key, type(coder).__name__, "BoxCoder")
    limit = coder.bbox_xform_clip
    _demand(limit == LARGEST_LOG_RATIO, f"{key}.bbox_xform_clip", limit, "log(1000 / 16)")


def _outputs(predictor: FastRCNNPredictor) -> tuple[nn.Linear, nn.Linear]:
    return predictor.cls_score, predictor.bbox_pred


def _demand(condition: bool, key: str, value: object, supported: str) -> None:
    if not condition:
        raise InteropError(f"{key} is not supported: it has {value}. Supported is {supported}.")
