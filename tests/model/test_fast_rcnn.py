"""Fast R-CNN on proposals that come from outside; what every system does is in test_build."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.ops.boxes import iou
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import TINY, A, B, noise_of, targets_of
from tests.ops.inputs import random_boxes


@pytest.fixture
def detector() -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(TINY)


@pytest.fixture
def batch() -> ImageBatch:
    """Two images of noise, with 50 proposals each."""
    given = Proposals.pad(list(random_boxes(0, 2, 50, extent=64.0)), torch.ones(2, 2))
    return replace(noise_of((64, 96), (64, 96)), proposals=given)


def test_detects_among_the_given_proposals(detector: FastRCNN, batch: ImageBatch) -> None:
    found, used = detector.eval().detect_batch(batch)
    assert [len(detections) > 0 for detections in found] == [True, True]
    assert used.boxes.shape == (2, 20, 4)  # after_nms_test


def test_no_proposals_are_no_error(detector: FastRCNN, batch: ImageBatch) -> None:
    none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
    bare = replace(batch, proposals=none)
    assert detector.losses(bare, targets_of([], [])).total == 0
    assert detector.losses(bare, targets_of([A], [])).total > 0  # the ground truth is left
    assert [len(found) for found in detector.eval().detect_batch(bare)[0]] == [0, 0]


def test_images_without_proposals_are_refused_with_a_way_out(
    detector: FastRCNN, batch: ImageBatch
) -> None:
    bare = replace(batch, proposals=None)
    with pytest.raises(ValueError, match=r"without proposals.*rcnn propose"):
        detector.losses(bare, targets_of([A], [B]))
    with pytest.raises(ValueError, match="without proposals"):
        detector.detect_batch(bare)
    with pytest.raises(ValueError, match=r"2 images.*proposals of 1.*\(0, 4\)"):
        detector.detect([torch.rand(3, 64, 96)] * 2, [torch.zeros(0, 4)])


def test_proposals_and_detections_are_in_pixels_of_each_picture(detector: FastRCNN) -> None:
    for parameter in detector.roi_heads.box_predictor.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():  # every RoI is a dog, exactly where its proposal is
        detector.roi_heads.box_predictor.cls_score.bias[2] = 9.0
    images = [torch.rand(3, *size) for size in ((128, 192), (64, 96), (300, 100))]
    proposals = [
        torch.tensor([[100.0, 60.0, 180.0, 120.0], [0.0, 0.0, 192.0, 128.0]]),
        torch.tensor([[8.0, 16.0, 40.0, 48.0]]),
        torch.tensor([[10.0, 200.0, 90.0, 290.0]]),
    ]
    found = detector.eval().detect(images, proposals)
    for detections, boxes in zip(found, proposals, strict=True):
        assert set(detections.names) == {"dog"}
        best = iou(boxes, detections.boxes).max(dim=1)
        assert_close(detections.boxes[best.indices], boxes, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (3, 1)])
def test_any_number_of_proposals_may_be_given(detector: FastRCNN, counts: Sequence[int]) -> None:
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    proposals = [random_boxes(1, n) * 0.3 + torch.tensor([0, 0, 30, 30]) for n in counts]
    found = detector.eval().detect(images, proposals)
    assert [len(one) > 0 for one in found] == [count > 0 for count in counts]
