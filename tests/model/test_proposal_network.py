"""The first half of Faster R-CNN alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.settings import DetectorSettings
from rcnn.structures import ImageBatch, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
Objects = list[list[tuple[float, float, float, float, int]]]

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)


@pytest.fixture
def network(tiny: DetectorSettings) -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(tiny)


@pytest.fixture
def batch(batch_of: MakeBatch, generator: torch.Generator) -> ImageBatch:
    black = batch_of((64, 96), (50, 80))
    return replace(black, pixels=torch.rand(black.pixels.shape, generator=generator))


@pytest.mark.parametrize("images", [[[], []], [[A], []], [[A, B, C], [B]]])
def test_two_losses_reach_every_parameter(
    network: ProposalNetwork, batch: ImageBatch, targets_of: MakeTargets, images: Objects
) -> None:
    losses = network.losses(batch, targets_of(*images))
    assert set(losses.named) == {"rpn_objectness", "rpn_boxes"}
    assert set(losses.counts.named) == {"anchors_positive", "anchors_negative"}
    assert_close(losses.total, losses.rpn_objectness + losses.rpn_boxes)
    losses.total.backward()
    some = any(images)
    assert (losses.rpn_boxes > 0) == some
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not some or parameter.grad.any(), name


def test_there_is_no_region_stage(network: ProposalNetwork) -> None:
    parts = {name.split(".")[0] for name in network.state_dict()}
    assert parts == {"backbone", "rpn"}
    assert not list(network.network.box_head.parameters())


@pytest.fixture
def whole(tiny: DetectorSettings, network: ProposalNetwork) -> FasterRCNN:
    """A Faster R-CNN with the same weights."""
    torch.manual_seed(1)
    detector = FasterRCNN(tiny)
    rest = detector.load_state_dict(network.state_dict(), strict=False)
    assert all(name.startswith("regions.") for name in rest.missing_keys)
    assert not rest.unexpected_keys
    return detector


def test_losses_are_those_of_faster_rcnn_with_the_same_weights(
    network: ProposalNetwork, whole: FasterRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    targets = targets_of([A, B], [C])
    ours, theirs = (
        detector.training_outputs(batch, targets, torch.Generator().manual_seed(3))
        for detector in (network, whole)
    )
    assert torch.equal(ours.losses.rpn_objectness, theirs.losses.rpn_objectness)
    assert torch.equal(ours.losses.rpn_boxes, theirs.losses.rpn_boxes)
    assert torch.equal(ours.anchors, theirs.anchors)
    assert torch.equal(ours.anchor_samples.indices, theirs.anchor_samples.indices)
    assert ours.rois is None
    assert ours.proposals is None


def test_proposals_are_those_of_faster_rcnn_with_the_same_weights(
    network: ProposalNetwork, whole: FasterRCNN, batch: ImageBatch
) -> None:
    ours, theirs = (detector.eval().detect_batch(batch)[1] for detector in (network, whole))
    assert ours.valid.any(dim=1).all()
    for field in ("boxes", "scores", "valid"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))


def test_detections_are_the_proposals_in_pixels_of_each_picture(network: ProposalNetwork) -> None:
    network.eval()
    sizes = [(128, 192), (64, 96), (640, 200)]
    images = [torch.rand(3, *size) for size in sizes]
    found = network.detect(images)
    _, proposals = network.detect_batch(network.images.batch(images))
    for i, (height, width) in enumerate(sizes):
        one, valid = found[i], proposals.valid[i]
        assert 0 < len(one) == valid.sum() <= 20  # after_nms_test
        assert set(one.names) == {"object"}
        assert set(one.labels.tolist()) == {1}
        assert torch.equal(one.scores, proposals.scores[i, valid])
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        vertical, horizontal = (network.images.batch([images[i]]).scales[0]).tolist()
        factors = torch.tensor([horizontal, vertical, horizontal, vertical])
        assert_close(one.boxes * factors, proposals.boxes[i, valid], atol=1e-3, rtol=1e-5)
        assert one.boxes.min() >= 0
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()


def test_detecting_keeps_no_graph_and_no_mode(network: ProposalNetwork) -> None:
    (found,) = network.detect([torch.rand(3, 64, 96)])
    assert not found.boxes.requires_grad
    assert network.training


def test_one_look_evaluates_as_proposing_and_learning_do(
    network: ProposalNetwork, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    network.eval()
    targets = targets_of([A], [B, C])
    both = network.evaluation_outputs(batch, targets, torch.Generator().manual_seed(0))
    assert both.detections is None
    assert torch.equal(both.proposals.boxes, network.detect_batch(batch)[1].boxes)
    losses = network.losses(batch, targets, torch.Generator().manual_seed(0))
    assert_close(both.losses.named, losses.named)
    assert not both.losses.total.requires_grad
