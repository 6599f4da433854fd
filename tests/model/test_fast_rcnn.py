"""Fast R-CNN on proposals that come from outside."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import iou
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
Boxes = Callable[..., Tensor]
Objects = list[list[tuple[float, float, float, float, int]]]

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)


@pytest.fixture
def detector(tiny: DetectorSettings) -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(tiny)


@pytest.fixture
def batch(batch_of: MakeBatch, random_boxes: Boxes, generator: torch.Generator) -> ImageBatch:
    """Two images of noise, with 50 proposals each."""
    black = batch_of((64, 96), (64, 96))
    noise = torch.rand(black.pixels.shape, generator=generator)
    boxes = random_boxes(0, 2, 50, extent=64.0)
    given = Proposals(boxes, torch.ones(2, 50), torch.ones(2, 50).bool())
    return replace(black, pixels=noise, proposals=given)


@pytest.mark.parametrize("images", [[[], []], [[A], []], [[A, B, C], [B]]])
def test_two_losses_reach_every_parameter(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets, images: Objects
) -> None:
    losses = detector.losses(batch, targets_of(*images))
    assert set(losses.named) == {"roi_classes", "roi_boxes"}
    assert set(losses.counts.named) == {"rois_foreground", "rois_background"}
    assert_close(losses.total, losses.roi_classes + losses.roi_boxes)
    losses.total.backward()
    some = any(images)
    assert (losses.roi_boxes > 0) == some
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not some or parameter.grad.any(), name


def test_there_is_no_proposal_network(detector: FastRCNN) -> None:
    assert not any("rpn" in name for name, _ in detector.named_parameters())


def test_a_generator_makes_the_losses_reproducible(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    targets = targets_of([A], [B, C])
    totals = [
        detector.losses(batch, targets, torch.Generator().manual_seed(seed)).total
        for seed in (1, 1, 2)
    ]
    assert totals[0] == totals[1] != totals[2]


def test_detects_among_the_given_proposals(detector: FastRCNN, batch: ImageBatch) -> None:
    found, used = detector.eval().detect_batch(batch)
    assert [len(detections) > 0 for detections in found] == [True, True]
    assert not found[0].boxes.requires_grad
    assert used.boxes.shape == (2, 20, 4)  # after_nms_test


def test_no_proposals_are_no_error(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
    bare = replace(batch, proposals=none)
    assert detector.losses(bare, targets_of([], [])).total == 0
    assert detector.losses(bare, targets_of([A], [])).total > 0  # the ground truth is left
    assert [len(found) for found in detector.eval().detect_batch(bare)[0]] == [0, 0]


def test_images_that_came_without_are_refused_with_a_way_out(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    bare = replace(batch, proposals=None)
    with pytest.raises(ValueError, match=r"without proposals.*rcnn propose"):
        detector.losses(bare, targets_of([A], [B]))
    with pytest.raises(ValueError, match="without proposals"):
        detector.detect_batch(bare)


def answer(detector: FastRCNN, label: int) -> None:
    """Make every region ``label``, exactly where its proposal is."""
    for parameter in detector.roi_heads.box_predictor.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        detector.roi_heads.box_predictor.cls_score.bias[label] = 9.0


def test_proposals_and_detections_are_in_pixels_of_each_picture(detector: FastRCNN) -> None:
    answer(detector, label=2)
    sizes = [(128, 192), (64, 96), (300, 100)]
    images = [torch.rand(3, *size) for size in sizes]
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
def test_any_number_of_proposals_may_be_given(
    detector: FastRCNN, random_boxes: Boxes, counts: Sequence[int]
) -> None:
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    proposals = [random_boxes(1, n) * 0.3 + torch.tensor([0, 0, 30, 30]) for n in counts]
    found = detector.eval().detect(images, proposals)
    assert [len(one) > 0 for one in found] == [count > 0 for count in counts]


def test_detecting_keeps_no_graph_and_no_mode(detector: FastRCNN) -> None:
    (found,) = detector.detect([torch.rand(3, 64, 96)], [torch.tensor([[8.0, 8, 60, 60]])])
    assert not found.boxes.requires_grad
    assert detector.training


def test_one_look_evaluates_as_detecting_and_learning_do(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    detector.eval()
    targets = targets_of([A], [B, C])
    both = detector.evaluation_outputs(batch, targets, torch.Generator().manual_seed(0))
    found, proposals = detector.detect_batch(batch)
    assert both.detections is not None
    for one, other in zip(both.detections, found, strict=True):
        assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(both.proposals.boxes, proposals.boxes)
    losses = detector.losses(batch, targets, torch.Generator().manual_seed(0))
    assert_close(both.losses.named, losses.named)
    assert not both.losses.total.requires_grad


def test_padding_must_suit_the_stride(tiny: DetectorSettings) -> None:
    settings = replace(tiny, images=replace(tiny.images, multiple=24))
    with pytest.raises(SettingsError, match=r"images\.multiple=24.*stride 16"):
        FastRCNN(settings)
