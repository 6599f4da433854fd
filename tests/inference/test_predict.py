"""Detecting in pictures of every kind, with thresholds for one call."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.inference.predict import predict
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import SYSTEMS, build_detector, needs_proposals
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.ops.boxes import iou
from rcnn.settings import SettingsError
from rcnn.structures import Detections

PICTURE = torch.randint(256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator())
BOXES = torch.tensor([[5.0, 5.0, 40.0, 40.0], [10.0, 2.0, 60.0, 30.0]])
NEEDY = [system for system in SYSTEMS if needs_proposals(system)]
OWN = [system for system in SYSTEMS if not needs_proposals(system)]


def detector_of(
    system: str,
    classes: tuple[str, ...] = ("cat", "dog"),
    test_scales: tuple[int, ...] | None = None,
) -> Any:
    """Return a detector with random weights, which finds much."""
    torch.manual_seed(0)
    settings = DetectorSettings(
        classes,
        images=ImageSettings(shorter_side=64, longer_side=128, test_scales=test_scales),
        backbone=BackboneSettings(
            "resnet18", norm="batch", frozen_stages=0, weights=None, box_head="two_mlp", hidden=16
        ),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
        # At several scales a RoI of 30 x 30 pixels is one of the usual size.
        pooling=PoolingSettings(
            "pyramid" if system == "sppnet" else "roi_align", canonical_size=30.0
        ),
        detections=DetectionSettings(score=0.0),
    )
    return build_detector(system, settings).eval()


def test_paths_pictures_arrays_tensors_and_lists_are_alike(tmp_path: Path) -> None:
    detector = detector_of("faster_rcnn")
    pixels = PICTURE.permute(1, 2, 0).numpy()
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    one = predict(detector, path)
    assert isinstance(one, Detections)
    assert len(one) > 0
    several = predict(detector, [str(path), Image.fromarray(pixels), np.array(pixels), PICTURE])
    assert isinstance(several, list)
    for found in several:
        torch.testing.assert_close(found.boxes, one.boxes, rtol=0, atol=1e-3)
    assert (one.boxes[:, 2] <= 70).all()
    assert (one.boxes[:, 3] <= 50).all()
    assert predict(detector, []) == []


@pytest.mark.parametrize("classes", [("cat",), ("cat", "dog", "fish")])
@pytest.mark.parametrize("system", SYSTEMS)
def test_thresholds_hold_for_one_call(system: str, classes: tuple[str, ...]) -> None:
    detector = detector_of(system, classes)
    corners = torch.cartesian_prod(torch.arange(0.0, 60, 20), torch.arange(0.0, 40, 20))
    apart = torch.cat([corners, corners + 18], dim=1)
    proposals = [torch.cat([apart, BOXES])] if needs_proposals(system) else None

    def found(score: float | None = None, nms_iou: float | None = None) -> Detections:
        one = predict(detector, [PICTURE], score=score, nms_iou=nms_iou, proposals=proposals)
        assert isinstance(one, list)
        return one[0]

    everything = found()
    limit = float(everything.scores.aminmax().min + everything.scores.max()) / 2
    some = found(score=limit)
    assert 0 < len(some) < len(everything)
    assert float(some.scores.min()) >= limit
    separate = found(nms_iou=0.01)
    for label in separate.labels.unique():
        boxes = separate.boxes[separate.labels == label]
        overlaps = iou(boxes, boxes).fill_diagonal_(0)
        # Boxes are suppressed before they are scaled back and cut at the border.
        assert float(overlaps.max()) < 0.05
    assert torch.equal(found().boxes, everything.boxes)


@pytest.mark.parametrize("options", [{"score": 1.5}, {"nms_iou": -0.1}, {"batch_size": 0}])
def test_a_value_out_of_range_is_named_and_changes_nothing(options: dict[str, Any]) -> None:
    detector = detector_of("faster_rcnn")
    before = detector.roi_heads.settings
    ((name, value),) = options.items()
    with pytest.raises(SettingsError, match=f"{name}={value}"):
        predict(detector, PICTURE, **options)
    assert detector.roi_heads.settings is before


def test_the_mode_of_the_detector_is_left_as_it_was() -> None:
    detector = detector_of("faster_rcnn").train()
    before = {name: part.training for name, part in detector.named_modules()}
    predict(detector, PICTURE)
    assert {name: part.training for name, part in detector.named_modules()} == before
    assert detector.training


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pictures_come_with_their_proposals(batch_size: int) -> None:
    detector = detector_of("fast_rcnn")
    one = predict(detector, PICTURE, proposals=[BOXES])
    assert isinstance(one, Detections)
    several = predict(
        detector,
        [PICTURE] * 3,
        batch_size=batch_size,
        proposals=[BOXES, BOXES[:0], BOXES[:1]],
    )
    assert isinstance(several, list)
    assert [len(found) > 0 for found in several] == [True, False, True]
    torch.testing.assert_close(several[0].boxes, one.boxes, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("system", NEEDY)
@pytest.mark.parametrize("count", [None, 0, 1, 3])
def test_pictures_without_their_proposals_are_refused(system: str, count: int | None) -> None:
    proposals = None if count is None else [BOXES] * count
    given = "none are" if count is None else f"those of {count} are"
    with pytest.raises(ValueError, match=rf"2 pictures; {given} given"):
        predict(detector_of(system), [PICTURE, PICTURE], proposals=proposals)


@pytest.mark.parametrize("system", OWN)
def test_a_system_that_makes_its_own_proposals_takes_none(system: str) -> None:
    detector = detector_of(system)
    with pytest.raises(ValueError, match="makes its own proposals"):
        predict(detector, PICTURE, proposals=[BOXES])
    names = ("object",) if system == "rpn" else ("cat", "dog")
    found = predict(detector, PICTURE)
    assert isinstance(found, Detections)
    assert found.class_names == names


@pytest.mark.parametrize("system", ["faster_rcnn", "fast_rcnn", "sppnet"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_several_test_scales_change_the_scores_and_keep_to_the_picture(
    system: str, count: int
) -> None:
    boxes = torch.cat([BOXES, torch.tensor([[0.0, 0.0, 70.0, 50.0]])])
    given = [boxes[:count]] if needs_proposals(system) else None
    at: dict[tuple[int, ...] | None, Detections] = {}
    for scales in (None, (64,), (48, 96)):
        found = predict(detector_of(system, test_scales=scales), [PICTURE], proposals=given)
        assert isinstance(found, list)
        at[scales] = found[0]
        assert (len(at[scales]) > 0) == (given is None or count > 0)
        assert (at[scales].boxes <= torch.tensor([70.0, 50.0, 70.0, 50.0])).all()
    # The detector's own scale alone is no other scale.
    assert torch.equal(at[None].boxes, at[(64,)].boxes)
    assert torch.equal(at[None].scores, at[(64,)].scores)
    if given is None or count > 0:
        assert not torch.equal(at[None].scores, at[(48, 96)].scores)


def test_a_soft_suppression_takes_the_threshold_of_the_call() -> None:
    detector = detector_of("faster_rcnn")
    soft = replace(detector.settings.detections, suppression="linear", nms_iou=0.9)
    detector.roi_heads.settings = replace(detector.settings, detections=soft)
    usual, strict = predict(detector, PICTURE), predict(detector, PICTURE, nms_iou=0.01)
    assert isinstance(usual, Detections)
    assert isinstance(strict, Detections)
    assert float(strict.scores.sum()) < float(usual.scores.sum())


def test_inference_imports_no_lightning() -> None:
    code = (
        "import sys, rcnn.inference.checkpoint, rcnn.inference.predict\n"
        "assert 'pytorch_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
