"""Detections against torchvision's box head."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import RoIHeads

from rcnn.model.postprocess import DetectionLimits, postprocess
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals

Boxes = Callable[..., Tensor]
MakeBatch = Callable[..., ImageBatch]
MakeProposals = Callable[..., Proposals]

NAMES = ("cat", "dog", "hen")
ALMOST_CERTAIN = 12.0  # a logit


def _logits(*labels: int) -> Tensor:
    """One image whose RoIs are almost certainly these classes; (1, R, 4)."""
    return ALMOST_CERTAIN * torch.nn.functional.one_hot(torch.tensor([labels]), 4).float()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "limits",
    [
        DetectionLimits(),
        DetectionLimits(score=0.3, nms_iou=0.5, per_image=7),
    ],
)
def test_detections_equal_torchvision(
    random_boxes: Boxes,
    batch_of: MakeBatch,
    proposals_of: MakeProposals,
    seed: int,
    limits: DetectionLimits,
) -> None:
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
        proposals_of(boxes),
        logits,
        deltas,
        batch,
        replace(limits, min_size=0.01),
        NAMES,
    )
    for i, detections in enumerate(ours):
        its_boxes, its_scores, its_labels = (part[i] for part in expected)
        assert len(detections) > 3
        assert torch.equal(detections.labels, its_labels)
        assert_close(detections.boxes, its_boxes, atol=0.01, rtol=0.0)
        assert_close(detections.scores, its_scores, atol=1e-6, rtol=0.0)


def test_boxes_are_those_of_the_class_by_hand(
    batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [60.0, 60.0, 80.0, 80.0]]])
    deltas = torch.zeros(1, 2, 4, 4)
    deltas[0, 0, 2, 0] = 0.5  # class 2 moves the first box right by half its width
    (found,) = postprocess(
        proposals_of(boxes), _logits(2, 1), deltas, batch_of((100, 100)), DetectionLimits(), NAMES
    )
    assert found.labels.tolist() == [2, 1]
    assert found.names == ["dog", "cat"]
    assert_close(found.boxes, torch.tensor([[20.0, 10.0, 40.0, 50.0], [60.0, 60.0, 80.0, 80.0]]))


def test_background_is_never_detected(batch_of: MakeBatch, proposals_of: MakeProposals) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [60.0, 60.0, 80.0, 80.0]]])
    (found,) = postprocess(
        proposals_of(boxes),
        _logits(0, 3),
        torch.zeros(1, 2, 4, 4),
        batch_of((100, 100)),
        DetectionLimits(),
        NAMES,
    )
    assert found.labels.tolist() == [3]


def test_boxes_return_to_the_pixels_of_the_original_image(proposals_of: MakeProposals) -> None:
    # the first image was enlarged, unevenly by rounding; the second was shrunk
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
        DetectionLimits(),
        NAMES,
    )
    assert_close(first.boxes, torch.tensor([[5.0, 20.0, 25.0, 30.0]]))  # clipped at x = 100
    assert_close(second.boxes, torch.tensor([[40.0, 80.0, 256.0, 120.0]]))


def test_a_score_must_exceed_the_limit(batch_of: MakeBatch, proposals_of: MakeProposals) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0]]])
    logits = torch.zeros(1, 1, 4)  # every class 0.25
    inputs = (proposals_of(boxes), logits, torch.zeros(1, 1, 4, 4), batch_of((100, 100)))
    assert len(postprocess(*inputs, DetectionLimits(score=0.25), NAMES)[0]) == 0
    found = postprocess(*inputs, DetectionLimits(score=0.24), NAMES)[0]
    assert found.labels.tolist() == [1, 2, 3]  # one RoI may be several things


def test_suppression_is_per_class(batch_of: MakeBatch, proposals_of: MakeProposals) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0]] * 3])
    logits = _logits(1, 2, 1) * torch.tensor([1.0, 0.9, 0.8])[:, None]
    (found,) = postprocess(
        proposals_of(boxes),
        logits,
        torch.zeros(1, 3, 4, 4),
        batch_of((64, 64)),
        DetectionLimits(),
        NAMES,
    )
    assert found.labels.tolist() == [1, 2]
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_the_best_of_all_classes_fill_the_image(
    random_boxes: Boxes, batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    logits = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0)) * 3
    limits = DetectionLimits(nms_iou=1.0, per_image=10)
    boxes = random_boxes(0, 1, 50)
    (found,) = postprocess(
        proposals_of(boxes), logits, torch.zeros(1, 50, 4, 4), batch_of((100, 100)), limits, NAMES
    )
    best = logits.softmax(-1)[0, :, 1:].flatten().topk(10).values
    assert_close(found.scores, best)


def test_padded_proposals_are_never_detected(batch_of: MakeBatch) -> None:
    boxes = torch.tensor([[10.0, 10.0, 30.0, 50.0], [0.0, 0.0, 0.0, 0.0]]).expand(2, 2, 4)
    valid = torch.tensor([[True, False], [False, False]])
    proposals = Proposals(boxes, torch.ones(2, 2), valid)
    logits = _logits(1, 1).expand(2, -1, -1)
    first, second = postprocess(
        proposals,
        logits,
        torch.zeros(2, 2, 4, 4),
        batch_of((64, 64), (64, 64)),
        DetectionLimits(),
        NAMES,
    )
    assert_close(first.boxes, torch.tensor([[10.0, 10.0, 30.0, 50.0]]))
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)
    assert second.names == []


def test_no_proposals_give_no_detections(batch_of: MakeBatch, proposals_of: MakeProposals) -> None:
    found = postprocess(
        Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool()),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, 4, 4),
        batch_of((64, 64), (64, 64)),
        DetectionLimits(),
        NAMES,
    )
    assert [len(detections) for detections in found] == [0, 0]


def test_a_class_agnostic_head_moves_every_class_alike(
    random_boxes: Boxes, batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, batch = random_boxes(1, 2, 20), batch_of((90, 90), (90, 90))
    logits = torch.randn(2, 20, 4, generator=generator)
    deltas = torch.randn(2, 20, 1, 4, generator=generator) * 0.2
    one = postprocess(proposals_of(boxes), logits, deltas, batch, DetectionLimits(), NAMES)
    every = postprocess(
        *(proposals_of(boxes), logits, deltas.expand(-1, -1, 4, -1)),
        *(batch, DetectionLimits(), NAMES),
    )
    for agnostic, specific in zip(one, every, strict=True):
        assert len(agnostic) > 0
        assert_close(agnostic.boxes, specific.boxes)
        assert torch.equal(agnostic.labels, specific.labels)


@pytest.mark.parametrize(("min_size", "kept"), [(0.0, 2), (10.0, 2), (10.5, 1)])
def test_small_detections_can_be_left_out(
    batch_of: MakeBatch, proposals_of: MakeProposals, min_size: float, kept: int
) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 70.0, 90.0]]])
    (found,) = postprocess(
        *(proposals_of(boxes), _logits(1, 1), torch.zeros(1, 2, 4, 4), batch_of((96, 96))),
        *(DetectionLimits(min_size=min_size), NAMES),
    )
    assert len(found) == kept


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"score": 1.0}, "score"),
        ({"score": -0.1}, "score"),
        ({"nms_iou": 0.0}, "nms_iou"),
        ({"per_image": 0}, "per_image"),
        ({"min_size": -1.0}, "min_size"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"^{key}="):
        DetectionLimits(**changes)
