"""Detections against torchvision's box head."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import RoIHeads

from rcnn.model.postprocess import DetectionSettings, postprocess
from rcnn.structures import Detections, ImageBatch, Proposals
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


def _detect(
    proposals: Proposals | list[list[float]],
    logits: Tensor,
    limits: DetectionSettings | None = None,
    deltas: Tensor | None = None,
    batch: ImageBatch | None = None,
) -> list[Detections]:
    """Detect among proposals, by default of an image of 100 x 100 pixels, without regression."""
    if not isinstance(proposals, Proposals):
        proposals = proposals_of(torch.tensor([proposals]))
    batch = batch or batch_of(*[(100, 100)] * len(logits))
    return postprocess(proposals, logits, deltas, batch, limits or DetectionSettings(), NAMES)


TWO = [[10.0, 10.0, 30.0, 50.0], [60.0, 60.0, 80.0, 80.0]]


def test_boxes_are_those_of_the_class_by_hand() -> None:
    deltas = torch.zeros(1, 2, 4, 4)
    deltas[0, 0, 2, 0] = 0.5  # class 2 moves the first box right by half its width
    (found,) = _detect(TWO, _logits(2, 1), deltas=deltas)
    assert found.labels.tolist() == [2, 1]
    assert found.names == ["dog", "cat"]
    assert_close(found.boxes, torch.tensor([[20.0, 10.0, 40.0, 50.0], TWO[1]]))


def test_background_is_never_detected() -> None:
    (found,) = _detect(TWO, _logits(0, 3))
    assert found.labels.tolist() == [3]


def test_boxes_return_to_the_pixels_of_the_original_image() -> None:
    batch = ImageBatch(
        torch.zeros(2, 3, 96, 128),
        sizes=torch.tensor([[80, 100], [96, 128]]),
        original_sizes=torch.tensor([[40, 25], [192, 256]]),
    )
    boxes = torch.tensor([[[20.0, 40.0, 200.0, 60.0]]]).expand(2, 1, 4)
    logits, deltas = _logits(1).expand(2, -1, -1), torch.zeros(2, 1, 4, 4)
    first, second = _detect(proposals_of(boxes), logits, deltas=deltas, batch=batch)
    assert_close(first.boxes, torch.tensor([[5.0, 20.0, 25.0, 30.0]]))  # clipped at x = 100
    assert_close(second.boxes, torch.tensor([[40.0, 80.0, 256.0, 120.0]]))


def test_a_score_must_exceed_the_limit() -> None:
    logits = torch.zeros(1, 1, 4)  # every class 0.25
    assert len(_detect(TWO[:1], logits, DetectionSettings(score=0.25))[0]) == 0
    (found,) = _detect(TWO[:1], logits, DetectionSettings(score=0.24))
    assert found.labels.tolist() == [1, 2, 3]  # one RoI may be several things


def test_suppression_is_per_class() -> None:
    logits = _logits(1, 2, 1) * torch.tensor([1.0, 0.9, 0.8])[:, None]
    (found,) = _detect(TWO[:1] * 3, logits)
    assert found.labels.tolist() == [1, 2]
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_the_best_of_all_classes_fill_the_image() -> None:
    logits = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0)) * 3
    limits = DetectionSettings(nms_iou=1.0, per_image=10)
    (found,) = _detect(proposals_of(random_boxes(0, 1, 50)), logits, limits)
    assert_close(found.scores, logits.softmax(-1)[0, :, 1:].flatten().topk(10).values)


def test_padded_proposals_are_never_detected() -> None:
    boxes = torch.tensor([TWO[0], [0.0, 0.0, 0.0, 0.0]]).expand(2, 2, 4)
    proposals = Proposals(boxes, torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))
    logits, deltas = _logits(1, 1).expand(2, -1, -1), torch.zeros(2, 2, 4, 4)
    first, second = _detect(proposals, logits, deltas=deltas)
    assert_close(first.boxes, torch.tensor(TWO[:1]))
    assert second.boxes.shape == (0, 4)
    assert second.names == []


def test_no_proposals_give_no_detections() -> None:
    none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
    found = _detect(none, torch.zeros(2, 0, 4), deltas=torch.zeros(2, 0, 4, 4))
    assert [len(detections) for detections in found] == [0, 0]


def test_a_class_agnostic_head_moves_every_class_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    proposals, logits = (
        proposals_of(random_boxes(1, 2, 20)),
        torch.randn(2, 20, 4, generator=generator),
    )
    deltas = torch.randn(2, 20, 1, 4, generator=generator) * 0.2
    one = _detect(proposals, logits, deltas=deltas)
    every = _detect(proposals, logits, deltas=deltas.expand(-1, -1, 4, -1))
    for agnostic, specific in zip(one, every, strict=True):
        assert len(agnostic) > 0
        assert_close(agnostic.boxes, specific.boxes)
        assert torch.equal(agnostic.labels, specific.labels)


@pytest.mark.parametrize(("min_size", "kept"), [(0.0, 2), (20.0, 2), (20.5, 0)])
def test_small_detections_can_be_left_out(min_size: float, kept: int) -> None:
    (found,) = _detect(TWO, _logits(1, 1), DetectionSettings(min_size=min_size))
    assert len(found) == kept


def test_proposals_are_moved_or_stay_where_they_are() -> None:
    """Without deltas, or told not to use them (Fast R-CNN, table 6)."""
    generator = torch.Generator().manual_seed(2)
    boxes, logits = random_boxes(2, 2, 20), torch.randn(2, 20, 4, generator=generator) * 3
    deltas = torch.randn(2, 20, 4, 4, generator=generator) * 0.3
    proposals, limits = proposals_of(boxes), DetectionSettings(nms_iou=1.0)
    moved = _detect(proposals, logits, limits, deltas)
    stay = _detect(proposals, logits, replace(limits, ablate_regression=True), deltas)
    none = _detect(proposals, logits, limits)
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
        limits = DetectionSettings(suppression=rule)
        for count in (0, 1, 3):
            boxes, valid = torch.ones(2, count, 4) * 9, torch.zeros(2, count).bool()
            valid[0] = True
            boxes[..., 2:] = 30.0
            proposals = Proposals(boxes, torch.ones(2, count), valid)
            deltas = torch.zeros(2, count, 4, 4)
            found = _detect(proposals, torch.zeros(2, count, 4), limits, deltas)
            assert [len(found[0]) > 0, len(found[1]) > 0] == [count > 0, False]

    def test_boxes_apart_are_detected_as_by_hard_suppression(self) -> None:
        logits = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)) * 2
        boxes = torch.arange(8)[:, None] * 12 + torch.tensor([0.0, 0.0, 10.0, 10.0])
        proposals = proposals_of(boxes.expand(2, 8, 4))
        found = [
            _detect(proposals, logits, DetectionSettings(suppression=rule, per_image=9))
            for rule in ("hard", "linear", "gaussian")
        ]
        for hard, *soft in zip(*found, strict=True):
            assert len(hard) == 9
            for one in soft:
                assert torch.equal(one.boxes, hard.boxes)
                assert torch.equal(one.labels, hard.labels)
                assert_close(one.scores, hard.scores)
