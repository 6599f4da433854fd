"""Every setting of a torchvision detector, read off; what has no counterpart, refused."""

import json
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from rcnn.interop import InteropError
from rcnn.interop.settings import read_backbone, read_settings
from rcnn.model.settings import DetectorSettings
from rcnn.settings import from_plain, to_plain

Assemble = Callable[..., FasterRCNN]
NAMES = ("a", "b")


def pyramid(name: str = "resnet18", **arguments: Any) -> Any:
    """A ResNet with a pyramid; its tensors have shapes but no values."""
    with torch.device("meta"):
        return resnet_fpn_backbone(backbone_name=name, weights=None, **arguments)


def model_of(backbone: nn.Module | None = None, **arguments: Any) -> FasterRCNN:
    """A detector for two classes; its tensors have shapes but no values."""
    if "box_predictor" not in arguments:
        arguments["num_classes"] = 3
    with torch.device("meta"):
        return FasterRCNN(backbone or pyramid(), **arguments)


def read(**arguments: Any) -> DetectorSettings:
    return read_settings(model_of(**arguments), NAMES)


def entry(settings: DetectorSettings, path: str) -> Any:
    return attrgetter(path)(settings)


def test_what_torchvision_writes_in_its_code_is_set_as_there() -> None:
    expected = {
        "class_names": NAMES,
        "images.antialias": False,
        "anchors.sizes": ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
        "anchors.offset": 0.0,
        "anchors.spacing": "grid",
        "anchors.rounding": "nearest",
        "rpn.objectness": "sigmoid",
        "rpn.channels": None,
        "anchor_sampling.skip_border_anchors": False,
        "proposals.min_size": 1e-3,
        "roi_sampling.samples_per": "image",
        "roi_sampling.background_low": 0.0,
        "deltas.std": (0.1, 0.1, 0.2, 0.2),
        "pooling.kind": "roi_align",
        "pooling.aligned": False,
        "losses.rpn_box_beta": 1 / 9,
        "losses.roi_box_beta": 1 / 9,
        "detections.min_size": 1e-2,
    }
    settings = read()
    assert {path: entry(settings, path) for path in expected} == expected


POOL = MultiScaleRoIAlign(["0", "1", "2", "3"], 5, -1, canonical_scale=112, canonical_level=3)
SIZES, RATIOS = ((8, 16),) * 5, ((0.5, 1.0, 3.0),) * 5
READ: list[tuple[str, Any, dict[str, Any]]] = [
    ("min_size", (320, 480), {"images.shorter_side": 480}),
    ("max_size", 900, {"images.longer_side": 900}),
    ("size_divisible", 64, {"images.multiple": 64}),
    ("image_mean", [0.1, 0.2, 0.3], {"images.mean": (0.1, 0.2, 0.3)}),
    ("image_std", [0.4, 0.5, 0.6], {"images.std": (0.4, 0.5, 0.6)}),
    (
        "rpn_anchor_generator",
        AnchorGenerator(SIZES, RATIOS),
        {"anchors.sizes": ((8.0, 16.0),) * 5, "anchors.ratios": (0.5, 1.0, 3.0)},
    ),
    ("rpn_pre_nms_top_n_train", 11, {"proposals.before_nms_train": 11}),
    ("rpn_post_nms_top_n_train", 12, {"proposals.after_nms_train": 12}),
    ("rpn_pre_nms_top_n_test", 13, {"proposals.before_nms_test": 13}),
    ("rpn_post_nms_top_n_test", 14, {"proposals.after_nms_test": 14}),
    ("rpn_nms_thresh", 0.61, {"proposals.nms_iou": 0.61}),
    ("rpn_score_thresh", 0.05, {"proposals.score": 0.05}),
    ("rpn_fg_iou_thresh", 0.62, {"anchor_sampling.positive_iou": 0.62}),
    ("rpn_bg_iou_thresh", 0.23, {"anchor_sampling.negative_iou": 0.23}),
    ("rpn_batch_size_per_image", 15, {"anchor_sampling.samples": 15}),
    ("rpn_positive_fraction", 0.4, {"anchor_sampling.positive_fraction": 0.4}),
    (
        "box_roi_pool",
        POOL,
        {
            "pooling.size": 5,
            "pooling.sampling_ratio": 0,
            "pooling.canonical_size": 112.0,
            "pooling.canonical_level": 3,
        },
    ),
    ("box_score_thresh", 0.12, {"detections.score": 0.12}),
    ("box_nms_thresh", 0.41, {"detections.nms_iou": 0.41}),
    ("box_detections_per_img", 21, {"detections.per_image": 21}),
    ("box_fg_iou_thresh", 0.55, {"roi_sampling.foreground_iou": 0.55}),
    ("box_bg_iou_thresh", 0.35, {"roi_sampling.background_high": 0.35}),
    ("box_batch_size_per_image", 22, {"roi_sampling.samples": 22}),
    ("box_positive_fraction", 0.3, {"roi_sampling.foreground_fraction": 0.3}),
    ("bbox_reg_weights", (8.0, 4.0, 2.5, 2.0), {"deltas.std": (0.125, 0.25, 0.4, 0.5)}),
]


def test_every_argument_of_a_detector_is_read_and_a_checkpoint_can_hold_it() -> None:
    settings = read(**{argument: value for argument, value, _ in READ})
    for argument, _, expected in READ:
        assert {path: entry(settings, path) for path in expected} == expected, argument
    assert from_plain(DetectorSettings, json.loads(json.dumps(to_plain(settings)))) == settings


class OwnPredictor(FastRCNNPredictor):  # type: ignore[misc]
    pass


UNEQUAL = ((0.5, 1.0),) * 4 + ((1.0, 2.0),)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"rpn_head": RPNHead(256, 3, conv_depth=2)}, "rpn.head.conv"),
        ({"box_predictor": OwnPredictor(1024, 3)}, "roi_heads.box_predictor"),
        ({"fixed_size": (64, 64)}, "transform.fixed_size"),
        ({"box_roi_pool": MultiScaleRoIAlign(["0"], (7, 5), 2)}, "box_roi_pool.output_size"),
        ({"rpn_anchor_generator": AnchorGenerator(((32,),) * 5, UNEQUAL)}, "aspect_ratios"),
        (
            {"rpn_anchor_generator": AnchorGenerator(((8,),) * 4 + ((8, 9),), ((1.0,),) * 5)},
            "anchor_generator.sizes of each level",
        ),
    ],
)
def test_a_part_without_counterpart_is_refused_by_its_name(
    arguments: dict[str, Any], part: str
) -> None:
    with pytest.raises(InteropError, match=rf"^.*{part} is not supported: .* Supported is .*$"):
        read(**arguments)


@pytest.mark.parametrize(
    ("builder", "part"),
    [(maskrcnn_resnet50_fpn, "mask"), (fasterrcnn_resnet50_fpn_v2, "rpn.head.conv")],
)
def test_masks_are_refused_and_so_is_the_second_version_of_the_builder(
    builder: Callable[..., FasterRCNN], part: str
) -> None:
    with torch.device("meta"):
        model = builder(weights=None, weights_backbone=None)
    with pytest.raises(InteropError, match=rf"^[^:]*{part}.* is not supported"):
        read_settings(model, NAMES)


@pytest.mark.parametrize(
    ("path", "changed", "part"),
    [
        ("rpn.box_coder.weights", (1.0, 1.0, 2.0, 2.0), "rpn.box_coder.weights"),
        ("roi_heads.box_coder.bbox_xform_clip", 4.0, "roi_heads.box_coder.bbox_xform_clip"),
        ("roi_heads.box_predictor.bbox_pred", nn.Linear(1024, 4), "bbox_pred.out_features"),
        ("roi_heads.box_head.drop", nn.Dropout(0.5), "dropout"),
        ("roi_heads.box_head", TwoMLPHead(12544, 1024).half(), "dtype"),
    ],
)
def test_changed_coders_predictors_dropout_and_precision_are_refused(
    path: str, changed: object, part: str
) -> None:
    model = model_of()
    owner, _, name = path.rpartition(".")
    setattr(attrgetter(owner)(model), name, changed)
    with pytest.raises(InteropError, match=rf"{part}.* is not supported"):
        read_settings(model, NAMES)


# --- the backbone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 34, 50, 152])
def test_a_resnet_with_a_pyramid_is_known_by_its_tensors(depth: int) -> None:
    found = read_backbone(model_of(pyramid(f"resnet{depth}")))
    assert found.name == f"resnet{depth}_fpn"
    assert (found.norm, found.weights) == ("frozen", None)
    assert (found.hidden, found.fpn_channels) == (1024, 256)


@pytest.mark.parametrize(
    ("name", "found", "hidden", "norm"),
    [
        ("mobilenet_fpn", "mobilenet_v3_large_fpn", 1024, "batch"),
        ("resnet18_c4", "resnet18", None, "frozen"),
        ("resnet18_c4_sequential", "resnet18", 1024, "batch"),
        ("vgg16_c4", "vgg16", 1024, "batch"),
    ],
)
def test_other_families_are_known_by_their_tensors(
    assemble: Assemble, name: str, found: str, hidden: int | None, norm: str
) -> None:
    settings = read_backbone(assemble(name))
    assert (settings.name, settings.hidden, settings.norm) == (found, hidden, norm)
    assert settings.box_head == ("two_mlp" if name == "resnet18_c4_sequential" else "own")
    assert settings.frozen_stages == 0


def test_width_of_the_head_and_epsilon_of_the_norms_are_read() -> None:
    with torch.device("meta"):
        features = get_model("vgg16_bn", weights=None).features[:-1]
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 2e-3
    features.out_channels = 512
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    head, predictor = TwoMLPHead(512 * 9, 20), FastRCNNPredictor(20, 3)
    found = read_backbone(
        model_of(features, box_head=head, box_predictor=predictor, box_roi_pool=pool)
    )
    assert (found.name, found.hidden) == ("vgg16_bn", 20)
    assert (found.norm, found.norm_eps) == ("batch", 2e-3)


@pytest.mark.parametrize(("learning", "frozen"), [(5, 0), (4, 1), (3, 2), (1, 4), (0, 5)])
def test_leading_stages_that_do_not_learn_are_counted(learning: int, frozen: int) -> None:
    backbone = pyramid(trainable_layers=learning)
    assert read_backbone(model_of(backbone)).frozen_stages == frozen


def test_stages_of_mobilenet_and_blocks_of_vgg_are_counted(assemble: Assemble) -> None:
    with torch.device("meta"):
        backbone = mobilenet_backbone(
            backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=2
        )
    assert read_backbone(model_of(backbone)).frozen_stages == 4
    model = assemble("vgg16_c4")
    model.backbone[:5].requires_grad_(False)  # conv1_1 to conv1_2 and their pooling
    model.backbone[5].requires_grad_(False)  # conv2_1 alone
    assert read_backbone(model).frozen_stages == 1


def test_a_later_stage_that_rests_alone_is_not_a_leading_stage() -> None:
    backbone = pyramid(trainable_layers=5)
    backbone.get_submodule("body.layer2").requires_grad_(False)
    assert read_backbone(model_of(backbone)).frozen_stages == 0


@pytest.mark.parametrize(
    "backbone",
    [pyramid("wide_resnet50_2"), pyramid(returned_layers=[2, 3, 4])],
    ids=["another network", "fewer levels"],
)
def test_another_backbone_is_refused_and_the_supported_ones_are_listed(backbone: nn.Module) -> None:
    with pytest.raises(InteropError, match=r"^backbone .*not supported: .*vgg16.*resnet50_fpn"):
        read_backbone(model_of(backbone))


def test_a_box_head_that_does_not_belong_to_the_backbone_is_refused(assemble: Assemble) -> None:
    model = assemble("vgg16_c4")
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 1024), nn.ReLU())
    with pytest.raises(InteropError, match=r"roi_heads.box_head .*Sequential and a Sequential"):
        read_backbone(model)
    model = assemble("resnet18_c4")
    model.roi_heads.box_head = get_model("resnet34", norm_layer=FrozenBatchNorm2d)
    with pytest.raises(InteropError, match=r"roi_heads.box_head .* and a ResNet"):
        read_backbone(model)


def test_norms_that_differ_and_other_norms_are_refused() -> None:
    backbone = pyramid(norm_layer=nn.BatchNorm2d)
    with torch.device("meta"):
        backbone.get_submodule("body").bn1 = FrozenBatchNorm2d(64)
    with pytest.raises(InteropError, match=r"BatchNorm2d with eps=1e-05 and FrozenBatchNorm2d"):
        read_backbone(model_of(backbone))
    with pytest.raises(InteropError, match=r"norm is not supported: it is SyncBatchNorm"):
        read_backbone(model_of(pyramid(norm_layer=nn.SyncBatchNorm)))
