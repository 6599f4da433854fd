"""The second stage as a whole, on a backbone of a few cells."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.model.backbones import BackboneSettings, build_network
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.roi_heads import Pool, RoIHeads, pool_from
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.ops.deltas import decode, encode
from rcnn.structures import ImageBatch, Proposals, Targets

Boxes = Callable[..., Tensor]
MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
MakeProposals = Callable[..., Proposals]

DELTAS = DeltaSettings(mean=(0.1, -0.1, 0.05, 0.0), std=(0.1, 0.2, 0.3, 0.4))


@pytest.fixture
def settings(tiny_backbone: BackboneSettings) -> DetectorSettings:
    return DetectorSettings(
        class_names=("cat", "dog", "hen"),
        backbone=tiny_backbone,
        roi_sampling=RoISampling(samples=16),
        pooling=PoolingSettings(size=2),
        deltas=DELTAS,
        detections=DetectionSettings(score=0.0),
    )


def _stage(settings: DetectorSettings) -> RoIHeads:
    torch.manual_seed(0)
    backbone = build_network(settings.backbone, settings.pooling.cells)
    return RoIHeads(settings, network.box_head)


def _pool(settings: DetectorSettings, features: Tensor) -> Pool:
    backbone = build_network(settings.backbone, settings.pooling.cells)
    return pool_from([features], network.backbone, settings.pooling)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_a_perfect_answer_to_the_targets_is_detected_as_the_truth(
    settings: DetectorSettings,
    batch_of: MakeBatch,
    targets_of: MakeTargets,
    proposals_of: MakeProposals,
    monkeypatch: pytest.MonkeyPatch,
    class_agnostic: bool,
) -> None:
    """The targets are normalised, what is detected is not: mean and deviation must cancel."""
    settings = replace(settings, box_predictor=BoxPredictorSettings(class_agnostic=class_agnostic))
    stage = _stage(settings)
    ground_truth = (20.0, 12.0, 60.0, 50.0, 2)
    proposals = proposals_of(torch.tensor([[[16.0, 16.0, 56.0, 48.0]]]))
    sampling = RoISampling(samples=1, append_gt=False, foreground_fraction=1.0)
    stage.settings = replace(settings, roi_sampling=sampling)
    rois = stage.sample(proposals, targets_of([ground_truth]), None)
    assert rois.labels.tolist() == [[2]]
    raw = encode(rois.boxes, rois.matched_boxes)
    assert_close(rois.deltas, (raw - torch.tensor(DELTAS.mean)) / torch.tensor(DELTAS.std))

    for parameter in stage.head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        stage.head.classes.bias[2] = 9.0
        stage.head.boxes.bias.view(-1, 4)[0 if class_agnostic else 2] = rois.deltas[0, 0]
    pool = _pool(settings, torch.zeros(1, 8, 6, 6))
    (found,) = stage.detect(pool, proposals, batch_of((96, 96)))
    assert found.labels[0] == 2
    assert_close(found.boxes[0], torch.tensor(ground_truth[:4]), atol=1e-3, rtol=0.0)
    assert_close(decode(proposals.boxes, raw)[0], found.boxes[:1], atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("images", [[[], []], [[(5.0, 5.0, 40.0, 40.0, 1)], []]])
def test_losses_are_finite_and_reach_every_parameter(
    settings: DetectorSettings,
    random_boxes: Boxes,
    targets_of: MakeTargets,
    proposals_of: MakeProposals,
    images: list[list[tuple[float, float, float, float, int]]],
) -> None:
    stage = _stage(settings)
    features = torch.randn(2, 8, 6, 6, requires_grad=True)
    proposals = proposals_of(random_boxes(0, 2, 30))
    losses, rois = stage.learn(_pool(settings, features), proposals, targets_of(*images))
    assert losses.named.keys() == {"roi_classes", "roi_boxes"}
    assert losses.roi_classes > 0
    assert (losses.roi_boxes > 0) == bool(images[0])
    assert losses.counts.rois_foreground == (rois.labels > 0).sum()
    assert losses.counts.rois_background == (rois.labels == 0).sum()
    losses.total.backward()
    for parameter in stage.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert features.grad is not None
    assert features.grad.any()


def test_unused_places_do_not_change_the_losses(
    settings: DetectorSettings,
    random_boxes: Boxes,
    targets_of: MakeTargets,
    proposals_of: MakeProposals,
) -> None:
    boxes, targets = proposals_of(random_boxes(1, 1, 10)), targets_of([(5.0, 5.0, 40.0, 40.0, 1)])
    stage, pool = _stage(settings), _pool(settings, torch.randn(1, 8, 6, 6))
    losses = []
    for rois in (11, 40):
        sampling = RoISampling(samples=rois, foreground_fraction=1.0)
        stage.settings = replace(settings, roi_sampling=sampling)
        losses.append(stage.learn(pool, boxes, targets)[0])
    assert_close(losses[0].named, losses[1].named)
    assert losses[0].counts == losses[1].counts


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_proposals_is_classified(
    settings: DetectorSettings, random_boxes: Boxes, batch_of: MakeBatch, count: int
) -> None:
    boxes = random_boxes(2, 2, count) * 0.3 + torch.tensor([0.0, 0.0, 30.0, 30.0])
    proposals = Proposals(boxes, torch.ones(2, count), torch.ones(2, count).bool())
    pool = _pool(settings, torch.randn(2, 8, 6, 6))
    found = _stage(settings).detect(pool, proposals, batch_of((96, 96), (96, 96)))
    assert len(found) == 2
    for detections in found:
        assert (len(detections) > 0) == (count > 0)


@pytest.mark.parametrize("used", [0, 1, 3])
def test_places_that_no_image_uses_change_no_detection(
    settings: DetectorSettings, random_boxes: Boxes, batch_of: MakeBatch, used: int
) -> None:
    boxes = random_boxes(3, 2, 20) * 0.3 + torch.tensor([0.0, 0.0, 30.0, 30.0])
    valid = torch.arange(20) < torch.tensor([[used], [used // 2]])
    proposals = Proposals(boxes, torch.rand(2, 20), valid)
    stage, batch = _stage(settings), batch_of((96, 96), (96, 96))
    pool = _pool(settings, torch.randn(2, 8, 6, 6))
    pooled: list[int] = []

    def counted(rois: Tensor) -> Tensor:
        pooled.append(rois.shape[1])
        return pool(rois)

    found = stage.detect(counted, proposals, batch)
    assert pooled == [max(used, 1)]
    # As if the last place were used, by a box that can be no detection: far outside.
    elsewhere = boxes.index_fill(1, torch.tensor(19), -1e4)
    everything = Proposals(elsewhere, proposals.scores, valid | (torch.arange(20) == 19))
    wanted = stage.detect(counted, everything, batch)
    assert pooled[1] == 20
    for ours, theirs in zip(found, wanted, strict=True):
        keep = (theirs.boxes[:, 2:] - theirs.boxes[:, :2]).amin(dim=1) > 0
        assert_close(ours.boxes, theirs.boxes[keep])
        assert_close(ours.scores, theirs.scores[keep])
        assert torch.equal(ours.labels, theirs.labels[keep])


def test_normalisation_of_targets_is_no_weight(settings: DetectorSettings) -> None:
    assert not any("delta" in name for name in _stage(settings).state_dict())
