"""Detections against torchvision's box head."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import RoIHeads

from rcnn.model.postprocess import DetectionSettings, postprocess
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import batch_of, proposals_of
from tests.ops.inputs import random_boxes

NAMES = ("cat", "dog", "hen")
ALMOST_CERTAIN = 12.0  # a logit


def _logits(*labels: int) -> Tensor:
    """One image whose RoIs are almost certainly these classes; (1, R, 4)."""
    return ALMOST_CERTAIN * torch.nn.functional.one_hot(torch.tensor([labels]), 4).float()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "limits", [DetectionSettings(), DetectionSettings(score=0.3, nms_iou=0.5, per_image=7)]
)
def test_detections_equal_torchvision(seed: int, limits: DetectionSettings) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(seed, 2, 40)
    logits = torch.randn(2, 40, 4, generator=generator) * 2
    deltas = torch.randn(2, 40, 4, 4, generator=generator) * 0.3
    batch = batch_of((96, 90), (70, 100))
    oracle = RoIHeads(
        *(None, None, None, 0.5, 0.5, 512, 0.25, (1.0, 1.0, 1.0, 1.0)),
        *(limits.score, limits.nms_iou, limits.per_image),
    )
    expected = oracle.postprocess_detections(
        logits.flatten(0, 1), deltas.flatten(0, 1).flatten(1), list(boxes), [(96, 90), (70, 100)]
    )
    # It drops boxes with a side below 0.01 pixels always.
    ours = postprocess(
        proposals_of(boxes), logits, deltas, batch, replace(limits, min_size=0.01), NAMES
    )
    for i, detections in enumerate(ours):
        its_boxes, its_scores, its_labels = (part[i] for part in expected)
        assert len(detections) > 3
        assert torch.equal(detections.labels, its_labels)
        assert_close(detections.boxes, its_boxes, atol=0.01, rtol=0.0)
        assert_close(detections.scores, its_scores, atol=1e-6, rtol=0.0)


def test_boxes_are_those_of_the_class_by_hand() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [60.0, 60.0, 80.0, 80.0]]])
    deltas = torch.zeros(1, 2, 4, 4)
    deltas[0, 0, 2, 0] = 0.5  # class 2 moves the first box right by half its width
    (found,) = postprocess(
        proposals_of(boxes), _logits(2, 1), deltas, batch_of((100, 100)), DetectionSettings(), NAMES
    )
    assert found.labels.tolist() == [2, 1]
    assert found.names == ["dog", "cat"]
    assert_close(found.boxes, torch.tensor([[20.0, 10.0, 40.0, 50.0], [60.0, 60.0, 80.0, 80.0]]))


def test_background_is_never_detected() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [60.0, 60.0, 80.0, 80.0]]])
    (found,) = postprocess(
        proposals_of(boxes),
        _logits(0, 3),
        torch.zeros(1, 2, 4, 4),
        batch_of((100, 100)),
        DetectionSettings(),
        NAMES,
    )
    assert found.labels.tolist() == [3]


def test_boxes_return_to_the_pixels_of_the_original_image() -> None:
    batch = ImageBatch(
        torch.zeros(2, 3, 96, 128),
        sizes=torch.tensor([[80, 100], [96, 128]]),
        original_sizes=torch.tensor([[40, 25], [192, 256]]),
    )
    boxes = torch.tensor([[[20.0, 40.0, 200.0, 60.0]], [[20.0, 40.0, 200.0, 60.0]]])
    first, second = postprocess(
        proposals_of(boxes),
        _logits(1).expand(2, -1, -1),
        torch.zeros(2, 1, 4, 4),
        batch,
        DetectionSettings(),
        NAMES,
    )
    assert_close(first.boxes, torch.tensor([[5.0, 20.0, 25.0, 30.0]]))  # clipped at x = 100
    assert_close(second.boxes, torch.tensor([[40.0, 80.0, 256.0, 120.0]]))


def test_a_score_must_exceed_the_limit() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0]]])
    logits = torch.zeros(1, 1, 4)  # every class 0.25
    inputs = (proposals_of(boxes), logits, torch.zeros(1, 1, 4, 4), batch_of((100, 100)))
    assert len(postprocess(*inputs, DetectionSettings(score=0.25), NAMES)[0]) == 0
    found = postprocess(*inputs, DetectionSettings(score=0.24), NAMES)[0]
    assert found.labels.tolist() == [1, 2, 3]  # one RoI may be several things


def test_suppression_is_per_class() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0]] * 3])
    logits = _logits(1, 2, 1) * torch.tensor([1.0, 0.9, 0.8])[:, None]
    (found,) = postprocess(
        proposals_of(boxes),
        logits,
        torch.zeros(1, 3, 4, 4),
        batch_of((64, 64)),
        DetectionSettings(),
        NAMES,
    )
    assert found.labels.tolist() == [1, 2]
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_the_best_of_all_classes_fill_the_image() -> None:
    logits = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0)) * 3
    limits = DetectionSettings(nms_iou=1.0, per_image=10)
    boxes = random_boxes(0, 1, 50)
    (found,) = postprocess(
        proposals_of(boxes), logits, torch.zeros(1, 50, 4, 4), batch_of((100, 100)), limits, NAMES
    )
    best = logits.softmax(-1)[0, :, 1:].flatten().topk(10).values
    assert_close(found.scores, best)


def test_padded_proposals_are_never_detected() -> None:
    boxes = torch.tensor([[10.0, 10.0, 30.0, 50.0], [0.0, 0.0, 0.0, 0.0]]).expand(2, 2, 4)
    valid = torch.tensor([[True, False], [False, False]])
    proposals = Proposals(boxes, torch.ones(2, 2), valid)
    logits = _logits(1, 1).expand(2, -1, -1)
    first, second = postprocess(
        proposals,
        logits,
        torch.zeros(2, 2, 4, 4),
        batch_of((64, 64), (64, 64)),
        DetectionSettings(),
        NAMES,
    )
    assert_close(first.boxes, torch.tensor([[10.0, 10.0, 30.0, 50.0]]))
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)
    assert second.names == []


def test_no_proposals_give_no_detections() -> None:
    found = postprocess(
        Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool()),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, 4, 4),
        batch_of((64, 64), (64, 64)),
        DetectionSettings(),
        NAMES,
    )
    assert [len(detections) for detections in found] == [0, 0]


def test_a_class_agnostic_head_moves_every_class_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, batch = random_boxes(1, 2, 20), batch_of((90, 90), (90, 90))
    logits = torch.randn(2, 20, 4, generator=generator)
    deltas = torch.randn(2, 20, 1, 4, generator=generator) * 0.2
    one = postprocess(proposals_of(boxes), logits, deltas, batch, DetectionSettings(), NAMES)
    every = postprocess(
        *(proposals_of(boxes), logits, deltas.expand(-1, -1, 4, -1)),
        *(batch, DetectionSettings(), NAMES),
    )
    for agnostic, specific in zip(one, every, strict=True):
        assert len(agnostic) > 0
        assert_close(agnostic.boxes, specific.boxes)
        assert torch.equal(agnostic.labels, specific.labels)


@pytest.mark.parametrize(("min_size", "kept"), [(0.0, 2), (10.0, 2), (10.5, 1)])
def test_small_detections_can_be_left_out(min_size: float, kept: int) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 70.0, 90.0]]])
    (found,) = postprocess(
        *(proposals_of(boxes), _logits(1, 1), torch.zeros(1, 2, 4, 4), batch_of((96, 96))),
        *(DetectionSettings(min_size=min_size), NAMES),
    )
    assert len(found) == kept


def test_proposals_are_moved_or_stay_where_they_are() -> None:
    """Without deltas, or told not to use them (Fast R-CNN, table 6)."""
    generator = torch.Generator().manual_seed(2)
    boxes, batch = random_boxes(2, 2, 20), batch_of((100, 100), (100, 100))
    logits = torch.randn(2, 20, 4, generator=generator) * 3
    deltas = torch.randn(2, 20, 4, 4, generator=generator) * 0.3
    proposals, limits = proposals_of(boxes), DetectionSettings(nms_iou=1.0)
    moved = postprocess(proposals, logits, deltas, batch, limits, NAMES)
    stay = postprocess(
        proposals, logits, deltas, batch, replace(limits, ablate_regression=True), NAMES
    )
    none = postprocess(proposals, logits, None, batch, limits, NAMES)
    for i in range(2):
        assert torch.equal(stay[i].boxes, none[i].boxes)
        assert torch.equal(stay[i].scores, moved[i].scores)  # the classes are the same
        given = {tuple(box) for box in boxes[i].tolist()}
        assert {tuple(box) for box in stay[i].boxes.tolist()} <= given
        assert not {tuple(box) for box in moved[i].boxes.tolist()} & given


def test_one_against_the_rest_has_the_scores_of_logistics() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0]]])
    logits = torch.tensor([[[9.0, 2.0, 0.0, -4.0]]])
    inputs = (proposals_of(boxes), logits, None, batch_of((64, 64)), DetectionSettings(), NAMES)
    (found,) = postprocess(*inputs, "one_vs_rest")
    assert found.names == ["cat", "dog"]
    assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    assert len(postprocess(*inputs)[0]) == 0  # as one choice, it is background


class TestSoftSuppression:
    BOXES = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0], [50.0, 0.0, 60.0, 10.0]]])

    def _found(
        self, batch: ImageBatch, proposals: Proposals, classes: Any = (1, 1, 1), **changes: Any
    ) -> Any:
        chances = torch.tensor([0.9, 0.8, 0.7])
        logits = torch.full((1, 3, 4), -30.0)
        for i, label in enumerate(classes):
            logits[0, i, label] = torch.logit(chances[i])
        limits = DetectionSettings(**changes)
        inputs = (proposals, logits, None, batch, limits, NAMES)
        return postprocess(*inputs, "one_vs_rest")[0]

    def test_an_overlapping_box_loses_score(self) -> None:
        inputs = batch_of((64, 64)), proposals_of(self.BOXES)  # IoU 0.6
        assert_close(self._found(*inputs).scores, torch.tensor([0.9, 0.7]))
        linear = self._found(*inputs, suppression="linear")
        assert_close(linear.scores, torch.tensor([0.9, 0.7, 0.32]))
        assert torch.equal(linear.boxes, self.BOXES[0, [0, 2, 1]])
        linear = self._found(*inputs, suppression="linear", nms_iou=0.7)
        assert_close(linear.scores, torch.tensor([0.9, 0.8, 0.7]))
        factor = torch.tensor(-(0.6**2) / 0.25).exp().item()
        gaussian = self._found(*inputs, suppression="gaussian", soft_sigma=0.25)
        assert_close(gaussian.scores, torch.tensor([0.9, 0.7, 0.8 * factor]))

    def test_the_limits_hold_for_the_scores_after_decay(self) -> None:
        inputs = batch_of((64, 64)), proposals_of(self.BOXES)
        linear = self._found(*inputs, suppression="linear", score=0.33)
        assert_close(linear.scores, torch.tensor([0.9, 0.7]))
        linear = self._found(*inputs, suppression="linear", per_image=2)
        assert_close(linear.scores, torch.tensor([0.9, 0.7]))
        linear = self._found(*inputs, suppression="linear", min_size=7.0)
        assert_close(linear.scores, torch.tensor([0.9, 0.7]))

    def test_classes_do_not_touch_each_other(self) -> None:
        inputs = batch_of((64, 64)), proposals_of(self.BOXES)
        linear = self._found(*inputs, classes=(1, 2, 1), suppression="linear")
        assert_close(linear.scores, torch.tensor([0.9, 0.8, 0.7]))
        assert linear.labels.tolist() == [1, 2, 1]

    @pytest.mark.parametrize("rule", ["linear", "gaussian"])
    def test_padding_and_images_without_proposals(self, rule: Any) -> None:
        batch, limits = batch_of((64, 64), (64, 64)), DetectionSettings(suppression=rule)
        for count in (0, 1, 3):
            boxes, valid = torch.ones(2, count, 4) * 9, torch.zeros(2, count).bool()
            valid[0] = True
            boxes[..., 2:] = 30.0
            found = postprocess(
                Proposals(boxes, torch.ones(2, count), valid),
                torch.zeros(2, count, 4),
                torch.zeros(2, count, 4, 4),
                batch,
                limits,
                NAMES,
            )
            assert [len(found[0]) > 0, len(found[1]) > 0] == [count > 0, False]

    def test_boxes_apart_are_detected_as_by_hard_suppression(self) -> None:
        batch = batch_of((100, 100), (100, 100))
        logits = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)) * 2
        places = torch.arange(8)[:, None] * 12 + torch.tensor([0.0, 0.0, 10.0, 10.0])
        inputs = (proposals_of(places.expand(2, 8, 4)), logits, None, batch)
        found = [
            postprocess(*inputs, DetectionSettings(suppression=rule, per_image=9), NAMES)
            for rule in ("hard", "linear", "gaussian")
        ]
        for hard, *soft in zip(*found, strict=True):
            assert len(hard) == 9
            for one in soft:
                assert torch.equal(one.boxes, hard.boxes)
                assert torch.equal(one.labels, hard.labels)
                assert_close(one.scores, hard.scores)
