"""Which schemes a detector's settings can carry out."""

from dataclasses import replace

import pytest

from rcnn.model.backbones import BackboneSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionModule


@pytest.mark.parametrize("kind", ["roi_align", "crop"])
def test_exact_training_takes_pooling_that_moves_with_the_rois(
    kind: str, settings: DetectorSettings
) -> None:
    settings = replace(settings, pooling=PoolingSettings(kind=kind))  # type: ignore[arg-type]
    assert DetectionModule(settings, scheme="exact").scheme == "exact"


@pytest.mark.parametrize(
    ("pooling", "backbone", "message"),
    [
        (PoolingSettings(kind="roi_pool"), "resnet18", r"pooling\.kind='roi_pool'"),
        (PoolingSettings(kind="pyramid"), "resnet18", r"pooling\.kind='pyramid'"),
        (PoolingSettings(sampling_ratio=0), "resnet18", r"pooling\.sampling_ratio=0"),
        (PoolingSettings(), "resnet18_fpn", "feature pyramid needs pooling=crop"),
    ],
)
def test_other_pooling_is_refused_with_a_way_out(
    pooling: PoolingSettings, backbone: str, message: str, settings: DetectorSettings
) -> None:
    box_head = "linear" if pooling.kind == "pyramid" else "own"
    net = BackboneSettings(backbone, norm="batch", frozen_stages=0, weights=None, box_head=box_head)
    with pytest.raises(SettingsError, match=message):
        DetectionModule(replace(settings, pooling=pooling, backbone=net), scheme="exact")


@pytest.mark.parametrize("system", ["fast_rcnn", "rpn"])
def test_a_system_that_does_one_half_is_told_what_to_change(
    system: str, settings: DetectorSettings
) -> None:
    message = r"scheme='exact'.*model=faster_rcnn; other systems take scheme=joint"
    with pytest.raises(SettingsError, match=message):
        DetectionModule(settings, system=system, scheme="exact")
    assert DetectionModule(settings, system=system).scheme == "joint"
