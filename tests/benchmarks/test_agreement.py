"""Detectors that differ are not timed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN

from benchmarks import detectors
from benchmarks.agreement import DisagreementError, check
from benchmarks.pair import Runtime, Workload, build_model, images_for
from rcnn.interop import from_torchvision
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.speed import SpeedSettings

pytestmark = pytest.mark.slow

LOAD = Workload("mobilenet_v3_large_fpn", (64, 96), classes=3, objects=2)
IMAGES = images_for(LOAD)


@pytest.fixture(scope="module")
def model() -> TorchvisionRCNN:
    return build_model(LOAD, IMAGES, torch.device("cpu"))


def test_the_same_weights_agree_and_the_model_stays_as_it_is(model: TorchvisionRCNN) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    limits = from_torchvision(model).settings
    assert check(model, from_torchvision(model), IMAGES, SpeedSettings()) == 1
    assert from_torchvision(model).settings == limits
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def more_deltas(detector: FasterRCNN) -> None:
    bias = detector.rpn.head.bbox_pred.bias
    assert bias is not None
    bias.detach().add_(0.5)


def other_classes(detector: FasterRCNN) -> None:
    detector.roi_heads.box_predictor.cls_score.weight.detach().neg_()


def fewer_detections(detector: FasterRCNN) -> None:
    limits = replace(detector.settings.detections, per_image=5)
    detector.roi_heads.settings = replace(detector.settings, detections=limits)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (more_deltas, "proposals of a training step"),
        (other_classes, "detections"),
        (fewer_detections, "detections"),
    ],
)
def test_the_part_that_differs_is_named(
    model: TorchvisionRCNN, change: Callable[[FasterRCNN], None], named: str
) -> None:
    detector = from_torchvision(model)
    change(detector)
    with pytest.raises(DisagreementError, match=named):
        check(model, detector, IMAGES, SpeedSettings())


def test_another_loss_is_named(model: TorchvisionRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = model.rpn.compute_loss

    def doubled(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        objectness, boxes = losses(*arguments)
        return objectness, 2 * boxes

    monkeypatch.setattr(model.rpn, "compute_loss", doubled)
    with pytest.raises(DisagreementError, match=r"loss rpn_boxes differs by 0\.5"):
        check(model, from_torchvision(model), IMAGES, SpeedSettings())


def test_no_detections_at_all_are_no_agreement(
    model: TorchvisionRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two empty lists of detections do not show that two detectors are equal."""
    monkeypatch.setattr(model.roi_heads, "score_thresh", 0.999999)
    with pytest.raises(DisagreementError, match=r" 0\.0% of the detections"):
        check(model, from_torchvision(model), IMAGES, SpeedSettings())


def test_the_part_refuses_to_time_them(
    model: TorchvisionRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(given: nn.Module) -> FasterRCNN:
        detector = from_torchvision(given)
        more_deltas(detector)
        return detector

    monkeypatch.setattr(detectors, "build_model", lambda *_: model)
    monkeypatch.setattr(detectors, "from_torchvision", wrong)
    monkeypatch.setattr(detectors, "time_tasks", lambda *_: pytest.fail("was timed"))
    with pytest.raises(DisagreementError, match=r"mobilenet_v3_large_fpn \(norm batch\)"):
        detectors.time_pair(LOAD, Runtime(torch.device("cpu")), pairs=1)
