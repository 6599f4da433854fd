"""Torchvision's detectors, assembled around the backbones that are shipped here."""

from dataclasses import replace

import pytest

from benchmarks.torchvision_models import c4_detector, is_pyramid, pyramid_detector
from rcnn.interop import from_torchvision
from rcnn.model.backbones import TORCHVISION, BackboneSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings

NAMES = ("cat", "dog")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet18", "resnet50"])
def test_a_c4_detector_has_the_papers_limits_and_is_taken_over(name: str) -> None:
    paper = DetectorSettings(
        NAMES,
        backbone=BackboneSettings(name, weights=None),
        pooling=PoolingSettings(size=1),  # a small fc6
    )
    settings = from_torchvision(c4_detector(paper, images=4)).settings
    assert settings.backbone.name == name
    assert (settings.backbone.norm, settings.backbone.frozen_stages) == ("batch", 0)
    assert settings.anchors.per_cell == 9
    assert settings.anchors.sizes == ((128.0, 256.0, 512.0),)
    assert replace(settings.proposals, min_size=16.0) == paper.proposals
    assert (settings.roi_sampling.samples, settings.roi_sampling.samples_per) == (32, "image")
    assert settings.detections.nms_iou == paper.detections.nms_iou
    assert settings.deltas == paper.deltas
    images = settings.images
    assert (images.shorter_side, images.longer_side) == (600, 1000)


@pytest.mark.parametrize("name", ["resnet18_fpn", "mobilenet_v3_large_fpn"])
def test_a_pyramid_has_torchvisions_limits_and_is_taken_over(name: str) -> None:
    settings = from_torchvision(pyramid_detector(name, (64, 96), classes=2)).settings
    assert settings.backbone.name == name
    assert (settings.backbone.norm, settings.backbone.frozen_stages) == ("batch", 0)
    assert len(settings.class_names) == 2
    assert settings.roi_sampling.samples == 512
    assert settings.proposals.before_nms_train == 2000
    assert (settings.images.shorter_side, settings.images.longer_side) == (64, 96)


def test_every_shipped_backbone_is_of_one_kind() -> None:
    assert [name for name in TORCHVISION if is_pyramid(name)] == [
        name for name in TORCHVISION if name.endswith("_fpn")
    ]
