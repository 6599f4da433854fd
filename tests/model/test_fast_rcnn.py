"""Fast R-CNN on proposals that come from outside."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
Boxes = Callable[..., Tensor]

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)


@pytest.fixture
def proposals(random_boxes: Boxes) -> Proposals:
    return Proposals(
        random_boxes(0, 2, 50, extent=64.0), torch.ones(2, 50), torch.ones(2, 50).bool()
    )


@pytest.fixture
def detector(tiny: DetectorSettings) -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(tiny)


@pytest.fixture
def batch(batch_of: MakeBatch, generator: torch.Generator) -> ImageBatch:
    black = batch_of((64, 96), (64, 96))
    return replace(black, pixels=torch.rand(black.pixels.shape, generator=generator))


@pytest.mark.parametrize("images", [[[], []], [[A], []], [[A, B, C], [B]]])
def test_two_losses_reach_every_parameter(
    detector: FastRCNN,
    batch: ImageBatch,
    proposals: Proposals,
    targets_of: MakeTargets,
    images: list[list[tuple[float, float, float, float, int]]],
) -> None:
    losses = detector.losses(batch, targets_of(*images), proposals)
    assert set(losses.named) == {"roi_classes", "roi_boxes"}
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
    detector: FastRCNN, batch: ImageBatch, proposals: Proposals, targets_of: MakeTargets
) -> None:
    totals = [
        detector.losses(
            batch, targets_of([A], [B, C]), proposals, torch.Generator().manual_seed(seed)
        ).total
        for seed in (1, 1, 2)
    ]
    assert totals[0] == totals[1] != totals[2]


def test_detects_among_the_given_proposals(
    detector: FastRCNN, batch: ImageBatch, proposals: Proposals
) -> None:
    found = detector.eval().detect_batch(batch, proposals)
    assert [len(detections) > 0 for detections in found] == [True, True]
    assert not found[0].boxes.requires_grad


def test_no_proposals_are_no_error(
    detector: FastRCNN, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
    assert detector.losses(batch, targets_of([], []), none).total == 0
    assert detector.losses(batch, targets_of([A], []), none).total > 0  # the ground truth is left
    assert [len(found) for found in detector.eval().detect_batch(batch, none)] == [0, 0]


def test_padding_must_suit_the_stride(tiny: DetectorSettings) -> None:
    settings = replace(tiny, images=replace(tiny.images, multiple=24))
    with pytest.raises(SettingsError, match=r"images\.multiple=24.*stride 16"):
        FastRCNN(settings)
