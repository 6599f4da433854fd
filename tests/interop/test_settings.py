"""Every setting of a torchvision detector, read off; what has no counterpart, refused."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from rcnn.interop import InteropError
from rcnn.interop.settings import check_parts, pooled_size, read_settings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.settings import from_plain, to_plain

BACKBONE = BackboneSettings(name="resnet18_fpn", weights=None)
NAMES = ("a", "b")


def model_of(**arguments: Any) -> FasterRCNN:
    """A detector without values in its tensors, but with its settings."""
    if "box_predictor" not in arguments:
        arguments["num_classes"] = 3
    with torch.device("meta"):
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        return FasterRCNN(backbone, **arguments)


def read(**arguments: Any) -> DetectorSettings:
    model = model_of(**arguments)
    check_parts(model)
    return read_settings(model, BACKBONE, NAMES)


def test_defaults_are_torchvisions_and_not_the_papers() -> None:
    settings = read()
    assert settings.class_names == NAMES
    assert settings.backbone is BACKBONE
    assert settings.images.antialias is False
    assert settings.anchors.sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert (settings.anchors.offset, settings.anchors.spacing) == (0.0, "grid")
    assert settings.anchors.rounding == "nearest"
    assert settings.rpn.objectness == "sigmoid"
    assert settings.rpn.channels is None
    assert settings.anchor_sampling.skip_border_anchors is False
    assert settings.proposals.min_size == 1e-3
    assert settings.roi_sampling.per == "image"
    assert settings.roi_sampling.background_low == 0.0
    assert settings.deltas.std == (0.1, 0.1, 0.2, 0.2)
    assert settings.pooling.kind == "roi_align"
    assert settings.pooling.aligned is False
    assert settings.losses.rpn_box_beta == settings.losses.roi_box_beta == 1 / 9
    assert settings.detections.min_size == 1e-2


def test_settings_are_plain_numbers_that_a_checkpoint_can_hold() -> None:
    settings = read(min_size=320, box_score_thresh=0, bbox_reg_weights=(8, 4, 5, 2))
    assert from_plain(DetectorSettings, json.loads(json.dumps(to_plain(settings)))) == settings


def test_images() -> None:
    images = read(
        min_size=(320, 480), max_size=700, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6],
        size_divisible=64,
    ).images  # fmt: skip
    assert (images.shorter_side, images.longer_side, images.multiple) == (480, 700, 64)
    assert (images.mean, images.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_rpn() -> None:
    settings = read(
        rpn_anchor_generator=AnchorGenerator(((8, 16),) * 5, ((0.5, 1.0, 3.0),) * 5),
        rpn_pre_nms_top_n_train=11, rpn_post_nms_top_n_train=12, rpn_pre_nms_top_n_test=13,
        rpn_post_nms_top_n_test=14, rpn_nms_thresh=0.61, rpn_fg_iou_thresh=0.62,
        rpn_bg_iou_thresh=0.23, rpn_batch_size_per_image=15, rpn_positive_fraction=0.4,
        rpn_score_thresh=0.05,
    )  # fmt: skip
    assert settings.anchors.sizes == ((8.0, 16.0),) * 5
    assert settings.anchors.ratios == (0.5, 1.0, 3.0)
    limits = settings.proposals
    assert (limits.before_nms_train, limits.after_nms_train) == (11, 12)
    assert (limits.before_nms_test, limits.after_nms_test) == (13, 14)
    assert (limits.nms_iou, limits.score) == (0.61, 0.05)
    sampling = settings.anchor_sampling
    assert (sampling.positive_iou, sampling.negative_iou) == (0.62, 0.23)
    assert (sampling.samples, sampling.positive_fraction) == (15, 0.4)


def test_regions() -> None:
    names = ["0", "1", "2", "3"]
    settings = read(
        box_roi_pool=MultiScaleRoIAlign(names, 5, -1, canonical_scale=112, canonical_level=3),
        box_score_thresh=0.12, box_nms_thresh=0.41, box_detections_per_img=21,
        box_fg_iou_thresh=0.55, box_bg_iou_thresh=0.35, box_batch_size_per_image=22,
        box_positive_fraction=0.3, bbox_reg_weights=(8.0, 4.0, 2.5, 2.0),
    )  # fmt: skip
    assert (settings.pooling.size, settings.pooling.sampling_ratio) == (5, 0)
    assert (settings.pooling.canonical_size, settings.pooling.canonical_level) == (112.0, 3)
    limits = settings.detections
    assert (limits.score, limits.nms_iou, limits.per_image) == (0.12, 0.41, 21)
    sampling = settings.roi_sampling
    assert (sampling.rois, sampling.foreground_fraction) == (22, 0.3)
    assert (sampling.foreground_iou, sampling.background_high) == (0.55, 0.35)
    assert settings.deltas.std == (0.125, 0.25, 0.4, 0.5)


class OwnPredictor(FastRCNNPredictor):
    pass


UNEQUAL = ((0.5, 1.0),) * 4 + ((1.0, 2.0),)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rpn_head": RPNHead(256, 3, conv_depth=2)}, r"rpn.head.conv.*2 convolutions.*Supported is"),
    ({"box_predictor": OwnPredictor(1024, 3)}, r"box_predictor.*OwnPredictor.*FastRCNNPredictor"),
    ({"fixed_size": (64, 64)}, r"transform.fixed_size.*\(64, 64\)"),
    (
        {"rpn_anchor_generator": AnchorGenerator(((32,),) * 5, UNEQUAL)},
        r"aspect_ratios.*the same on every level",
    ),
    (
        {"rpn_anchor_generator": AnchorGenerator(((8,),) * 4 + ((8, 9),), ((1.0,),) * 5)},
        r"sizes.*equally many on every level",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_has_no_counterpart_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InteropError, match=message):
        read(**arguments)


def test_oblong_pooling_is_refused() -> None:
    with pytest.raises(InteropError, match=r"output_size.*\(7, 5\).*a square"):
        pooled_size(MultiScaleRoIAlign(["0"], (7, 5), 2))


def test_masks_are_refused() -> None:
    with torch.device("meta"):
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(InteropError, match=r"roi_heads.*a mask head.*boxes alone"):
        check_parts(model)


def test_other_precision_is_refused() -> None:
    with pytest.raises(InteropError, match=r"torch.float16.*call model.float\(\)"):
        check_parts(model_of().half())


def test_other_coders_and_predictors_are_refused() -> None:
    model = model_of()
    model.rpn.box_coder.weights = (1.0, 1.0, 2.0, 2.0)
    with pytest.raises(InteropError, match=r"rpn.box_coder.weights.*Supported is ones"):
        check_parts(model)
    model = model_of()
    model.roi_heads.box_coder.bbox_xform_clip = 4.0
    with pytest.raises(InteropError, match=r"roi_heads.box_coder.bbox_xform_clip.*log"):
        check_parts(model)
    model = model_of()
    model.roi_heads.box_predictor.bbox_pred = nn.Linear(1024, 4)
    with pytest.raises(InteropError, match=r"bbox_pred.*it has 4.*3 rows"):
        check_parts(model)
