"""What the region stage does otherwise than by default."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.model.backbones import BoxHead
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.roi_heads import RoIHeads
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.ops.boxes import iou
from rcnn.ops.deltas import encode
from rcnn.structures import ImageBatch, Proposals, Targets

Boxes = Callable[..., Tensor]
MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
MakeProposals = Callable[..., Proposals]

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)
HARD = RoISampling(samples=4, ohem=True, append_gt=False)


class SideTail(BoxHead):
    """Passes on what the pool says of each RoI, and can drop or normalise it on the way."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(channels=4)
        self.layers = nn.Sequential(*layers)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layers(pooled.flatten(1))


def sides(rois: Tensor) -> Tensor:
    """The coordinates of each RoI, as if they were its features: (B, R, 4) -> (B R, 4, 1, 1)."""
    return rois.flatten(0, 1)[:, :, None, None] / 100


def stage_of(tiny: DetectorSettings, *layers: nn.Module, **changes: Any) -> RoIHeads:
    torch.manual_seed(0)
    stage = RoIHeads(replace(tiny, **{"roi_sampling": HARD, **changes}), SideTail(*layers))
    for layer in (stage.head.classes, stage.head.boxes):
        if layer is not None:
            nn.init.normal_(layer.weight)  # answers that differ
    return stage


class TestMining:
    def test_the_hardest_are_those_with_the_largest_loss_by_hand(
        self, tiny: DetectorSettings, targets_of: MakeTargets, proposals_of: MakeProposals
    ) -> None:
        """Four RoIs apart, all background, which the head thinks the less the farther right."""
        stage = stage_of(tiny, roi_sampling=replace(HARD, rois=2))
        for parameter in stage.head.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            stage.head.classes.weight[1, 0] = 5.0  # class 1 grows with x1
        boxes = torch.tensor([[[x, 0.0, x + 10.0, 10.0] for x in (40.0, 0.0, 60.0, 20.0)]])
        _, rois = stage.learn(sides, proposals_of(boxes), targets_of([]))
        assert rois.labels.tolist() == [[0, 0]]
        assert torch.equal(rois.boxes, boxes[:, [2, 0]])
        # An object that the head is sure not to see is harder than any of them.
        with torch.no_grad():
            stage.head.classes.bias[2] = -9.0
        ground_truth = (0.0, 0.0, 10.0, 10.0, 2)
        _, rois = stage.learn(sides, proposals_of(boxes), targets_of([ground_truth]))
        assert rois.labels.tolist() == [[2, 0]]
        assert torch.equal(rois.boxes, boxes[:, [1, 2]])

    @pytest.mark.parametrize("weight", [0.0, 100.0])
    def test_the_loss_is_that_of_class_and_box(
        self,
        tiny: DetectorSettings,
        targets_of: MakeTargets,
        proposals_of: MakeProposals,
        weight: float,
    ) -> None:
        """A foreground RoI whose class is certain is easy unless its box counts."""
        losses = LossSettings(roi_box_weight=weight)
        sampling = replace(HARD, rois=1)
        stage = stage_of(tiny, roi_sampling=sampling, losses=losses)
        for parameter in stage.head.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            stage.head.classes.bias[1] = 3.0
        boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]]])
        targets = targets_of([(0.0, 0.0, 10.0, 8.0, 1)])
        _, rois = stage.learn(sides, proposals_of(boxes), targets)
        assert rois.labels.item() == (1 if weight else 0)

    @pytest.mark.parametrize("per", ["minibatch", "image"])
    @pytest.mark.parametrize("images", [[[], []], [[A], []], [[A, B, C], [C]]])
    def test_the_losses_are_those_of_the_hardest_and_reach_every_parameter(
        self,
        tiny: DetectorSettings,
        random_boxes: Boxes,
        targets_of: MakeTargets,
        proposals_of: MakeProposals,
        images: Any,
        per: Any,
    ) -> None:
        sampling = RoISampling(samples=6, samples_per=per, ohem=True)
        stage = stage_of(tiny, nn.Linear(4, 4), roi_sampling=sampling)
        proposals, targets = proposals_of(random_boxes(0, 2, 40)), targets_of(*images)
        losses, rois = stage.learn(sides, proposals, targets)
        places = 6 if per == "image" else 3
        assert rois.labels.shape == (2, places)
        assert (rois.labels >= 0).all()
        everything = stage.mine(sides, proposals, targets)
        assert torch.equal(everything.boxes, rois.boxes)
        for i in range(2):
            overlaps = iou(rois.boxes[i], rois.boxes[i]) - torch.eye(places)
            assert overlaps.max() <= 0.7
        losses.total.backward()
        assert losses.total > 0
        for name, parameter in stage.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        # Random RoIs are easier on average.
        easy = replace(sampling, mining="random", foreground_fraction=0.5)
        stage.settings = replace(stage.settings, roi_sampling=easy)
        drawn = [stage.learn(sides, proposals, targets)[0].total for _ in range(20)]
        assert losses.total > torch.stack(drawn).mean()

    def test_no_candidate_at_all_has_no_loss(
        self, tiny: DetectorSettings, targets_of: MakeTargets
    ) -> None:
        none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
        losses, rois = stage_of(tiny).learn(sides, none, targets_of([], []))
        assert rois.labels.tolist() == [[-1], [-1]]
        assert losses.total == 0

    def test_norms_count_only_what_is_learned_and_dropout_does_not_blur(
        self,
        tiny: DetectorSettings,
        random_boxes: Boxes,
        targets_of: MakeTargets,
        proposals_of: MakeProposals,
    ) -> None:
        norm, resting = nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval()
        stage = stage_of(tiny, norm, resting, nn.Dropout(0.5))
        proposals, targets = proposals_of(random_boxes(1, 2, 40)), targets_of([A], [B, C])
        state = torch.get_rng_state()
        first, again = (stage.mine(sides, proposals, targets) for _ in range(2))
        assert torch.equal(first.boxes, again.boxes)
        assert torch.equal(state, torch.get_rng_state())
        assert norm.num_batches_tracked == 0
        assert norm.training
        assert not resting.training  # what was in evaluation mode stays so
        _, rois = stage.learn(sides, proposals, targets)
        assert norm.num_batches_tracked == 1
        alone = nn.BatchNorm1d(4)
        alone(sides(rois.boxes).flatten(1))
        assert_close(norm.running_mean, alone.running_mean)

    def test_weights_cast_without_gradient_are_not_used_again(
        self,
        tiny: DetectorSettings,
        random_boxes: Boxes,
        targets_of: MakeTargets,
        proposals_of: MakeProposals,
    ) -> None:
        stage = stage_of(tiny, nn.Linear(4, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, _ = stage.learn(sides, proposals_of(random_boxes(0, 1, 20)), targets_of([A]))
        losses.total.backward()
        assert all(parameter.grad is not None for parameter in stage.parameters())

    def test_gradients_flow_through_the_coordinates_of_the_hardest(
        self,
        tiny: DetectorSettings,
        random_boxes: Boxes,
        targets_of: MakeTargets,
        proposals_of: MakeProposals,
    ) -> None:
        boxes = random_boxes(3, 1, 20).requires_grad_()
        losses, rois = stage_of(tiny).learn(sides, proposals_of(boxes), targets_of([A]))
        losses.total.backward()
        assert boxes.grad is not None
        moved = boxes.grad[0].any(dim=-1).nonzero().squeeze(1)
        chosen = {tuple(box) for box in rois.boxes[0].tolist()}
        assert {tuple(box) for box in boxes[0, moved].tolist()} == chosen


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_boxes_of_each_class_are_denormalised_by_its_own_numbers(
    tiny: DetectorSettings,
    batch_of: MakeBatch,
    targets_of: MakeTargets,
    proposals_of: MakeProposals,
    class_agnostic: bool,
) -> None:
    """What the targets say of a proposal is what is detected, whatever the class."""
    means = tuple((0.1 * k, -0.05, 0.02 * k, 0.1) for k in range(3))
    stds = tuple((0.1 + k, 0.2, 0.3 + k, 0.4) for k in range(3))
    deltas = DeltaSettings(class_means=means, class_stds=stds)
    if class_agnostic:
        deltas = DeltaSettings(mean=means[1], std=stds[1])
    head = BoxPredictorSettings(class_agnostic=class_agnostic)
    sampling = RoISampling(samples=1, append_gt=False, foreground_fraction=1.0)
    stage = stage_of(tiny, deltas=deltas, head=head, roi_sampling=sampling)
    proposals = proposals_of(torch.tensor([[[16.0, 16.0, 56.0, 48.0]]]))
    for label in (1, 2, 3):
        ground_truth = (20.0, 12.0, 60.0, 50.0, label)
        rois = stage.sample(proposals, targets_of([ground_truth]), None)
        k = 1 if class_agnostic else label - 1
        raw = encode(rois.boxes, rois.matched_boxes)
        assert_close(rois.deltas, (raw - torch.tensor(means[k])) / torch.tensor(stds[k]))
        for parameter in stage.head.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            stage.head.classes.bias[label] = 9.0
            stage.head.boxes.bias.view(-1, 4)[0 if class_agnostic else label] = rois.deltas[0, 0]
        (found,) = stage.detect(sides, proposals, batch_of((96, 96)))
        assert found.labels[0] == label
        assert_close(found.boxes[0], torch.tensor(ground_truth[:4]), atol=1e-3, rtol=0.0)


OPTIONS: dict[str, dict[str, Any]] = {
    "hard mining": {"roi_sampling": RoISampling(samples=16, ohem=True)},
    "no box regression": {"box_predictor": BoxPredictorSettings(box_regression=False)},
    "agnostic": {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
    "one against the rest": {"box_predictor": BoxPredictorSettings(classifier="one_vs_rest")},
    "linear": {"detections": DetectionSettings(score=0.01, suppression="linear")},
    "gaussian": {"detections": DetectionSettings(score=0.01, suppression="gaussian")},
    "unrefined": {"detections": DetectionSettings(score=0.01, ablate_regression=True)},
    **{
        kind: {"losses": LossSettings(rpn_box_loss=kind, roi_box_loss=kind)}
        for kind in ("iou", "giou", "diou", "ciou")
    },
}


@pytest.mark.parametrize("images", [[[]], [[A]], [[], [A, B, C]]])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_detector_with_any_option_learns_and_detects(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets, option: str, images: Any
) -> None:
    torch.manual_seed(0)
    detector = FasterRCNN(replace(tiny, **OPTIONS[option]))
    black = batch_of(*[(64, 96)] * len(images))
    batch = replace(black, pixels=torch.rand(black.pixels.shape))
    losses = detector.losses(batch, targets_of(*images), torch.Generator().manual_seed(0))
    assert ("roi_boxes" in losses.named) == (option != "no box regression")
    assert all(term.isfinite() for term in losses.named.values())
    losses.total.backward()
    some = any(images)
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not some or parameter.grad.any(), name
    found = detector.eval().detect(list(batch.pixels))
    assert all(len(one) > 0 for one in found)


def test_without_regression_what_is_detected_are_proposals(
    tiny: DetectorSettings, batch_of: MakeBatch
) -> None:
    mean = DeltaSettings(mean=(0.5, 0.5, 0.5, 0.5))  # would move every box
    torch.manual_seed(0)
    batch = replace(batch_of((64, 96)), pixels=torch.rand(1, 3, 64, 96))
    for option in ("no box regression", "unrefined"):
        detector = FasterRCNN(replace(tiny, deltas=mean, **OPTIONS[option])).eval()
        (found,), proposals = detector.detect_batch(batch)
        given = {tuple(box) for box in proposals.boxes[0].tolist()}
        assert len(found) > 0
        assert {tuple(box) for box in found.boxes.tolist()} <= given


@pytest.mark.slow
@pytest.mark.parametrize("option", ["hard mining", "giou"])
def test_a_small_network_learns_one_picture_by_heart_with(
    tiny: DetectorSettings, targets_of: MakeTargets, option: str
) -> None:
    torch.manual_seed(0)
    settings = replace(tiny, pooling=replace(tiny.pooling, size=4), **OPTIONS[option])
    sampling = replace(settings.roi_sampling, rois=64)
    detector = FasterRCNN(replace(settings, roi_sampling=sampling))
    picture = torch.zeros(3, 64, 96)
    picture[0, 16:48, 32:64] = 1.0
    batch = detector.images.batch([picture])
    targets = targets_of([(32.0, 16.0, 64.0, 48.0, 2)])
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.005)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [80])
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimiser.zero_grad()
        detector.losses(batch, targets, generator).total.backward()
        optimiser.step()
        schedule.step()
    (found,) = detector.eval().detect([picture])
    assert found.names[0] == "dog"
    assert found.scores[0] > 0.5
    assert iou(found.boxes[:1], targets.boxes[0]).item() > 0.6
