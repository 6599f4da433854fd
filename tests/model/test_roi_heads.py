"""The second stage: sampling, hard examples, detections, and every option in a whole detector."""

from collections.abc import Sequence
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
from rcnn.model.roi_heads import RoIHeads, eval_mode
from rcnn.model.settings import DeltaSettings
from rcnn.model.targets import RoISampling
from rcnn.ops.boxes import iou
from rcnn.structures import Proposals
from tests.model.inputs import (
    NO_ONE_AND_THREE_OBJECTS,
    TINY,
    A,
    B,
    C,
    assert_all_trained,
    batch_of,
    noise_of,
    proposals_of,
    targets_of,
)
from tests.ops.inputs import random_boxes

HARD = RoISampling(samples=4, ohem=True, append_gt=False)


class Coordinates:
    """Pools the coordinates of each RoI, as if they were its features."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    def __call__(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:  # noqa: ARG002
        """(B, R, 4) -> (B R, 4, 1, 1)."""
        self.slots.append(rois.shape[1])
        return rois.flatten(0, 1)[:, :, None, None] / 100


class PassingHead(BoxHead):
    """Passes on what was pooled, and can drop or normalise it on the way."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(channels=4)
        self.layers = nn.Sequential(*layers)

    def forward(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.layers(pooled.flatten(1))
        return features


def heads_of(*layers: nn.Module, **changes: Any) -> RoIHeads:
    torch.manual_seed(0)
    settings = replace(TINY, **{"roi_sampling": HARD, **changes})
    heads = RoIHeads(settings, Coordinates(), PassingHead(*layers))
    for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
        if layer is not None:
            nn.init.normal_(layer.weight)  # answers that differ
    return heads


def silence(heads: RoIHeads) -> nn.Linear:
    """Let the predictor answer 0 to all, and return its layer of class logits."""
    for parameter in heads.box_predictor.parameters():
        nn.init.zeros_(parameter)
    return heads.box_predictor.cls_score


class TestHardExamples:
    """Online hard example mining: Shrivastava et al. 2016."""

    def test_the_hardest_are_those_with_the_largest_loss_by_hand(self) -> None:
        """Four RoIs apart, all background, predicted the less as such the farther right."""
        heads = heads_of(roi_sampling=replace(HARD, samples=2))
        classes = silence(heads)
        with torch.no_grad():
            classes.weight[1, 0] = 5.0  # class 1 grows with x1
        boxes = torch.tensor([[[x, 0.0, x + 10.0, 10.0] for x in (40.0, 0.0, 60.0, 20.0)]])
        _, rois = heads.losses([], proposals_of(boxes), targets_of([]))
        assert rois.labels.tolist() == [[0, 0]]
        assert torch.equal(rois.boxes, boxes[:, [2, 0]])
        # An object that is surely not predicted is harder than any of them.
        with torch.no_grad():
            classes.bias[2] = -9.0
        _, rois = heads.losses([], proposals_of(boxes), targets_of([(0.0, 0.0, 10.0, 10.0, 2)]))
        assert rois.labels.tolist() == [[2, 0]]
        assert torch.equal(rois.boxes, boxes[:, [1, 2]])

    @pytest.mark.parametrize("weight", [0.0, 100.0])
    def test_the_loss_is_that_of_class_and_box(self, weight: float) -> None:
        """A foreground RoI of a certain class is easy unless its box counts."""
        losses = LossSettings(roi_box_weight=weight)
        heads = heads_of(roi_sampling=replace(HARD, samples=1), losses=losses)
        with torch.no_grad():
            silence(heads).bias[1] = 3.0
        boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]]])
        _, rois = heads.losses([], proposals_of(boxes), targets_of([(0.0, 0.0, 10.0, 8.0, 1)]))
        assert rois.labels.item() == (1 if weight else 0)

    @pytest.mark.parametrize("per", ["minibatch", "image"])
    @pytest.mark.parametrize("images", NO_ONE_AND_THREE_OBJECTS)
    def test_the_losses_are_those_of_the_hardest_and_reach_every_parameter(
        self, images: Any, per: Any
    ) -> None:
        sampling = RoISampling(samples=6, samples_per=per, ohem=True)
        heads = heads_of(nn.Linear(4, 4), roi_sampling=sampling)
        proposals, targets = proposals_of(random_boxes(0, 2, 40)), targets_of(*images)
        losses, rois = heads.losses([], proposals, targets)
        slots = 6 if per == "image" else 3
        assert rois.labels.shape == (2, slots)
        assert (rois.labels >= 0).all()
        assert torch.equal(heads.sample([], proposals, targets).boxes, rois.boxes)
        for i in range(2):
            overlaps = iou(rois.boxes[i], rois.boxes[i]) - torch.eye(slots)
            assert overlaps.max() <= 0.7
        assert losses.total > 0
        assert_all_trained(heads, losses, some=False)

    @pytest.mark.parametrize("images", NO_ONE_AND_THREE_OBJECTS)
    def test_no_random_roi_is_harder_than_the_hardest(self, images: Any) -> None:
        proposals, targets = proposals_of(random_boxes(0, 2, 40)), targets_of(*images)
        hard = RoISampling(samples=1, samples_per="image", ohem=True)
        heads = heads_of(nn.Linear(4, 4), roi_sampling=hard)
        hardest = heads.losses([], proposals, targets)[0].total
        easy = replace(hard, ohem=False, foreground_fraction=1.0)
        heads.settings = replace(heads.settings, roi_sampling=easy)
        drawn = [heads.losses([], proposals, targets)[0].total for _ in range(20)]
        assert hardest > min(drawn)
        assert hardest >= max(drawn)

    def test_no_candidate_at_all_has_no_loss(self) -> None:
        none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
        losses, rois = heads_of().losses([], none, targets_of([], []))
        assert rois.labels.tolist() == [[-1], [-1]]
        assert losses.total == 0

    def test_norms_count_only_what_is_trained_on_and_dropout_does_not_blur(self) -> None:
        norm, resting = nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval()
        heads = heads_of(norm, resting, nn.Dropout(0.5))
        proposals, targets = proposals_of(random_boxes(1, 2, 40)), targets_of([A], [B, C])
        state = torch.get_rng_state()
        first, again = (heads.sample([], proposals, targets) for _ in range(2))
        assert torch.equal(first.boxes, again.boxes)
        assert torch.equal(state, torch.get_rng_state())
        assert norm.num_batches_tracked == 0
        assert norm.training
        assert not resting.training  # what was in evaluation mode stays so
        _, rois = heads.losses([], proposals, targets)
        assert norm.num_batches_tracked == 1
        alone = nn.BatchNorm1d(4)
        alone(Coordinates()([], rois.boxes).flatten(1))
        assert_close(norm.running_mean, alone.running_mean)

    def test_weights_cast_without_gradient_are_not_used_again(self) -> None:
        heads = heads_of(nn.Linear(4, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, _ = heads.losses([], proposals_of(random_boxes(0, 1, 20)), targets_of([A]))
        assert_all_trained(heads, losses, some=False)

    def test_gradients_flow_through_the_coordinates_of_the_hardest(self) -> None:
        boxes = random_boxes(3, 1, 20).requires_grad_()
        losses, rois = heads_of().losses([], proposals_of(boxes), targets_of([A]))
        losses.total.backward()
        assert boxes.grad is not None
        moved = boxes.grad[0].any(dim=-1).nonzero().squeeze(1)
        chosen = {tuple(box) for box in rois.boxes[0].tolist()}
        assert {tuple(box) for box in boxes[0, moved].tolist()} == chosen


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_a_perfect_answer_to_the_targets_is_detected_as_the_ground_truth(
    class_agnostic: bool,
) -> None:
    """The targets are normalised, detections are not: means and deviations must cancel."""
    means = tuple((0.1 * k, -0.05, 0.02 * k, 0.1) for k in range(3))
    stds = tuple((0.1 + k, 0.2, 0.3 + k, 0.4) for k in range(3))
    deltas = DeltaSettings(class_means=means, class_stds=stds)
    if class_agnostic:
        deltas = DeltaSettings(mean=means[1], std=stds[1])
    sampling = RoISampling(samples=1, append_gt=False, foreground_fraction=1.0)
    predictor = BoxPredictorSettings(class_agnostic=class_agnostic)
    heads = heads_of(deltas=deltas, box_predictor=predictor, roi_sampling=sampling)
    proposals = proposals_of(torch.tensor([[[16.0, 16.0, 56.0, 48.0]]]))
    for label in (1, 2, 3):
        ground_truth = (20.0, 12.0, 60.0, 50.0, label)
        rois = heads.sample([], proposals, targets_of([ground_truth]))
        assert rois.labels.tolist() == [[label]]
        k = 1 if class_agnostic else label - 1
        normalised = (rois.deltas[0, 0] - torch.tensor(means[k])) / torch.tensor(stds[k])
        with torch.no_grad():
            silence(heads).bias[label] = 9.0
            answers = heads.box_predictor.bbox_pred.bias.view(-1, 4)
            answers[0 if class_agnostic else label] = normalised
        losses, _ = heads.losses([], proposals, targets_of([ground_truth]))
        assert_close(losses.roi_boxes, torch.tensor(0.0))
        (found,) = heads.detect([], proposals, batch_of((96, 96)))
        assert found.labels[0] == label
        assert_close(found.boxes[0], torch.tensor(ground_truth[:4]), atol=1e-3, rtol=0.0)


def test_counts_are_those_of_the_sample_and_unused_slots_do_not_change_the_losses() -> None:
    boxes, targets = proposals_of(random_boxes(1, 1, 10)), targets_of([(5.0, 5.0, 40.0, 40.0, 1)])
    losses = []
    for samples in (11, 40):
        sampling = RoISampling(samples=samples, foreground_fraction=1.0, pad_with="nothing")
        one, rois = heads_of(roi_sampling=sampling).losses([], boxes, targets)
        assert one.counts.rois_foreground == (rois.labels > 0).sum() > 0
        assert one.counts.rois_background == (rois.labels == 0).sum() > 0
        losses.append(one)
    assert_close(losses[0].named, losses[1].named)


@pytest.mark.parametrize("used", [0, 1, 3])
def test_slots_that_no_image_uses_are_not_computed_and_change_no_detection(used: int) -> None:
    boxes = random_boxes(3, 2, 20) * 0.3 + torch.tensor([0.0, 0.0, 30.0, 30.0])
    valid = torch.arange(20) < torch.tensor([[used], [used // 2]])
    heads, batch = heads_of(), batch_of((96, 96), (96, 96))
    found = heads.detect([], proposals_of(boxes, valid), batch)
    # As if the last slot were used, by a box that can be no detection: far outside.
    elsewhere = boxes.index_fill(1, torch.tensor(19), -1e4)
    wanted = heads.detect([], proposals_of(elsewhere, valid | (torch.arange(20) == 19)), batch)
    assert isinstance(heads.pooler, Coordinates)
    assert heads.pooler.slots == [max(used, 1), 20]
    for image, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert (len(ours) > 0) == bool(valid[image].any())
        keep = (theirs.boxes[:, 2:] - theirs.boxes[:, :2]).amin(dim=1) > 0
        assert_close(ours.boxes, theirs.boxes[keep])
        assert_close(ours.scores, theirs.scores[keep])
        assert torch.equal(ours.labels, theirs.labels[keep])


def test_normalisation_of_targets_is_no_weight() -> None:
    assert not any("delta" in name for name in heads_of().state_dict())


def test_every_part_returns_to_its_own_mode_also_after_an_error() -> None:
    parts = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    modes: list[bool] = []

    def fail() -> None:
        modes.extend(part.training for part in parts.modules())
        raise KeyError

    with pytest.raises(KeyError), eval_mode(parts):
        fail()
    assert modes == [False] * 3
    assert [part.training for part in parts.modules()] == [True, True, False]


OPTIONS: dict[str, dict[str, Any]] = {
    "hard examples": {"roi_sampling": RoISampling(samples=16, ohem=True)},
    "no box regression": {"box_predictor": BoxPredictorSettings(box_regression=False)},
    "agnostic": {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
    "one against the rest": {"box_predictor": BoxPredictorSettings(classifier="one_vs_rest")},
    "linear": {"detections": DetectionSettings(score=0.01, suppression="linear")},
    "gaussian": {"detections": DetectionSettings(score=0.01, suppression="gaussian")},
    "ablated regression": {"detections": DetectionSettings(score=0.01, ablate_regression=True)},
    **{
        kind: {"losses": LossSettings(rpn_box_loss=kind, roi_box_loss=kind)}
        for kind in ("iou", "giou", "diou", "ciou")
    },
}


@pytest.mark.parametrize("classes", [("cat",), ("cat", "dog", "hen")])
@pytest.mark.parametrize("images", NO_ONE_AND_THREE_OBJECTS)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_detector_with_any_option_trains_and_detects(
    option: str, images: Any, classes: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    detector = FasterRCNN(replace(TINY, class_names=classes, **OPTIONS[option]))
    batch, targets = noise_of((64, 96), (64, 96)), targets_of(*images)
    targets = replace(targets, labels=targets.labels.clamp(max=len(classes)))
    losses = detector.losses(batch, targets, torch.Generator().manual_seed(0))
    assert ("roi_boxes" in losses.named) == (option != "no box regression")
    assert all(term.isfinite() for term in losses.named.values())
    assert_all_trained(detector, losses, some=any(images))
    found = detector.eval().detect(list(batch.pixels))
    assert all(len(one) > 0 for one in found)


def test_without_regression_proposals_are_detected_as_they_are() -> None:
    mean = DeltaSettings(mean=(0.5, 0.5, 0.5, 0.5))  # would move every box
    torch.manual_seed(0)
    for option in ("no box regression", "ablated regression"):
        detector = FasterRCNN(replace(TINY, deltas=mean, **OPTIONS[option])).eval()
        (found,), proposals = detector.detect_batch(noise_of((64, 96)))
        given = {tuple(box) for box in proposals.boxes[0].tolist()}
        assert len(found) > 0
        assert {tuple(box) for box in found.boxes.tolist()} <= given
