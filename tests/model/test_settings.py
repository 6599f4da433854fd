"""Which settings are possible, and which of them a trained detector may change."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import (
    DeltaSettings,
    DetectorSettings,
    may_change_after_training,
    training_settings,
)
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError, from_plain, to_plain
from tests.model.inputs import ONE_CLASS, TINY


@pytest.mark.parametrize(
    ("settings", "changes", "key"),
    [
        (AnchorSettings, {"scales": ()}, "scales"),
        (AnchorSettings, {"scales": (8.0, 0.0)}, "scales[1]"),
        (AnchorSettings, {"ratios": (-1.0,)}, "ratios[0]"),
        (AnchorSettings, {"sizes": ((32.0,), (64.0, 128.0))}, "sizes"),
        (AnchorSettings, {"sizes": ()}, "sizes"),
        (AnchorSettings, {"sizes": ((), ())}, "sizes[0]"),
        (AnchorSettings, {"offset": 1.5}, "offset"),
        (AnchorSampling, {"positive_iou": 0.0}, "positive_iou"),
        (AnchorSampling, {"positive_iou": 1.1}, "positive_iou"),
        (AnchorSampling, {"negative_iou": 0.8}, "negative_iou"),
        (AnchorSampling, {"low_quality_margin": 1.0}, "low_quality_margin"),
        (AnchorSampling, {"samples": 0}, "samples"),
        (AnchorSampling, {"positive_fraction": 1.5}, "positive_fraction"),
        (BoxPredictorSettings, {"classifier": "svm"}, "classifier"),
        (DeltaSettings, {"std": (0.1, 0.1, 0.0, 0.2)}, "std[2]"),
        (DeltaSettings, {"class_stds": ((0.1, 0.1, 0.2, 0.2),)}, "class_stds"),
        (DetectionSettings, {"score": 1.0}, "score"),
        (DetectionSettings, {"score": -0.1}, "score"),
        (DetectionSettings, {"nms_iou": 0.0}, "nms_iou"),
        (DetectionSettings, {"per_image": 0}, "per_image"),
        (DetectionSettings, {"min_size": -1.0}, "min_size"),
        (DetectionSettings, {"soft_sigma": 0.0}, "soft_sigma"),
        (DetectorSettings, {"class_names": ()}, "class_names"),
        (DetectorSettings, {"class_names": ("cat", "cat")}, "class_names"),
        (ImageSettings, {"shorter_side": 0}, "shorter_side"),
        (ImageSettings, {"shorter_side": 600, "longer_side": 500}, "longer_side"),
        (ImageSettings, {"multiple": 0}, "multiple"),
        (ImageSettings, {"std": (1.0, 0.0, 1.0)}, "std[1]"),
        (ImageSettings, {"test_scales": ()}, "test_scales"),
        (ImageSettings, {"test_scales": (0, 600)}, "test_scales[0]"),
        (ImageSettings, {"test_scales": (480, 1200), "longer_side": 1000}, "test_scales"),
        (LossSettings, {"rpn_box_weight": -1.0}, "rpn_box_weight"),
        (LossSettings, {"rpn_box_beta": -1.0}, "rpn_box_beta"),
        (LossSettings, {"roi_box_weight": -1.0}, "roi_box_weight"),
        (LossSettings, {"roi_box_beta": -1.0}, "roi_box_beta"),
        (PoolingSettings, {"size": 0}, "size"),
        (PoolingSettings, {"bins": ()}, "bins"),
        (PoolingSettings, {"bins": (3, 0)}, "bins[1]"),
        (PoolingSettings, {"sampling_ratio": -1}, "sampling_ratio"),
        (PoolingSettings, {"canonical_size": 0.0}, "canonical_size"),
        (PoolingSettings, {"kind": "mean"}, "kind"),
        (ProposalSettings, {"before_nms_train": 0}, "before_nms_train"),
        (ProposalSettings, {"after_nms_train": 0}, "after_nms_train"),
        (ProposalSettings, {"before_nms_test": 0}, "before_nms_test"),
        (ProposalSettings, {"after_nms_test": 0}, "after_nms_test"),
        (ProposalSettings, {"nms_iou": 0.0}, "nms_iou"),
        (ProposalSettings, {"min_size": -1.0}, "min_size"),
        (RoISampling, {"samples": 0}, "samples"),
        (RoISampling, {"ohem_candidates": 0}, "ohem_candidates"),
        (RoISampling, {"foreground_fraction": -0.1}, "foreground_fraction"),
        (RoISampling, {"foreground_iou": 0.0}, "foreground_iou"),
        (RoISampling, {"background_high": 0.6}, "background_high"),
        (RoISampling, {"background_low": 0.5}, "background_low"),
        (RPNSettings, {"channels": 0}, "channels"),
        (WarpSettings, {"size": 0}, "size"),
        (WarpSettings, {"context": -1}, "context"),
        (WarpSettings, {"size": 32, "context": 16}, "context"),
        (WarpSettings, {"chunk": 0}, "chunk"),
    ],
)
def test_values_out_of_range_are_named(settings: type, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    assert str(caught.value).startswith(f"{key}=")


def test_measured_deltas_must_suit_the_classes_and_the_box_predictor() -> None:
    rows = ((0.0,) * 4,) * 2, ((0.1, 0.1, 0.2, 0.2),) * 2
    measured = DeltaSettings(class_means=rows[0], class_stds=rows[1])
    two = replace(TINY, class_names=("cat", "dog"), deltas=measured)
    for wrong in (
        {"class_names": ("cat",)},
        {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
    ):
        with pytest.raises(SettingsError, match=r"^deltas\.class_means="):
            replace(two, **wrong)


def test_the_table_of_deltas_has_a_row_for_background_and_each_class() -> None:
    mean, std = DeltaSettings(mean=(0.1, 0.2, 0.3, 0.4)).tables(2)
    assert_close(mean, torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(3, 4))
    assert_close(std, torch.tensor([[0.1, 0.1, 0.2, 0.2]]).expand(3, 4))
    rows = ((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0))
    mean, std = DeltaSettings(class_means=rows, class_stds=rows).tables(2)
    assert_close(mean, torch.tensor([[0.0] * 4, *rows]))
    assert_close(std, torch.tensor([[0.1, 0.1, 0.2, 0.2], *rows]))


@pytest.mark.parametrize("settings", [TINY, ONE_CLASS])
def test_settings_survive_a_checkpoint(settings: DetectorSettings) -> None:
    assert from_plain(DetectorSettings, to_plain(settings)) == settings


def test_what_only_detection_depends_on_is_not_learned_with() -> None:
    changed = replace(
        TINY,
        detections=DetectionSettings(score=0.3, nms_iou=0.6),
        proposals=replace(TINY.proposals, after_nms_test=7),
        images=replace(TINY.images, test_scales=(64, 96)),
    )
    assert training_settings(changed) == training_settings(TINY)
    other = replace(TINY, proposals=replace(TINY.proposals, after_nms_train=7))
    assert training_settings(other) != training_settings(TINY)
    for part, key in (("detections", "score"), ("proposals", "nms_iou"), ("warp", "chunk")):
        assert may_change_after_training(part, key)
    for part, key in (("proposals", "after_nms_train"), ("backbone", "name"), ("pooling", "size")):
        assert not may_change_after_training(part, key)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("backbone", "images", "expected"),
    [
        ("resnet18", {}, IMAGENET),
        ("resnet18", {"channels": "bgr"}, tuple(colours[::-1] for colours in IMAGENET)),
        ("somebody.elses.network", {}, IMAGENET),
        ("efficientnet_lite0", {}, ((127 / 255,) * 3, (128 / 255,) * 3)),
        ("efficientnet_lite0_fpn", {"mean": (0.1, 0.2, 0.3)}, ((0.1, 0.2, 0.3), (128 / 255,) * 3)),
        ("efficientnet_lite0", {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, None),
    ],
)
def test_images_are_normalised_as_the_backbones_weights_expect_unless_told(
    backbone: str, images: dict[str, Any], expected: object
) -> None:
    settings = DetectorSettings(
        ("cat",), images=ImageSettings(**images), backbone=BackboneSettings(backbone)
    )
    found = (settings.images.mean, settings.images.std)
    assert found == (expected or (images["mean"], images["std"]))
    assert from_plain(DetectorSettings, to_plain(settings)) == settings
