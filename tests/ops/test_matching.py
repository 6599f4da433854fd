"""The ground-truth box that each candidate is matched with."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection._utils import Matcher

from rcnn.ops.matching import best_match, gather_boxes, is_low_quality_match, masked_iou
from tests.ops.inputs import GEOMETRY, random_boxes


def _labels(ious: Tensor, positive_iou: float, negative_iou: float, margin: float = 0.0) -> Tensor:
    """1, 0 or -1 for every candidate of one image."""
    best = ious.max(dim=0).values
    labels = torch.where(best < negative_iou, 0, -1)
    labels[best >= positive_iou] = 1
    labels[is_low_quality_match(ious[None], margin)[0]] = 1
    return labels


def test_published_matches() -> None:
    case = GEOMETRY["matcher"]
    ious = torch.tensor(case["iou_gt_by_anchor"])
    nowhere = torch.zeros(1, 3, 4)
    match = best_match(ious[None], nowhere, torch.zeros(1, 3).bool(), torch.zeros(1, 4, 4))
    assert match.indices[0].tolist() == case["matched_gt"]
    assert_close(match.ious[0], ious.max(dim=0).values)
    assert _labels(ious, 0.7, 0.3).tolist() == case["labels"]


@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_torchvision(seed: int) -> None:
    anchors, ground_truth = random_boxes(seed, 400), random_boxes(100 + seed, 5)
    is_target = torch.ones(1, 5).bool()
    ious = masked_iou(ground_truth[None], is_target, anchors[None])
    match = best_match(ious, ground_truth[None], ~is_target, anchors[None])
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=True)(ious[0])
    labels = _labels(ious[0], 0.7, 0.3)
    assert torch.equal(labels == 1, expected >= 0)
    assert torch.equal(labels == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(match.indices[0][expected >= 0], expected[expected >= 0])


def test_the_first_of_equals_is_the_match() -> None:
    ious = torch.tensor([[[0.0, 0.2], [0.6, 0.2], [0.6, 0.1]]])
    match = best_match(ious, torch.zeros(1, 3, 4), torch.zeros(1, 3).bool(), torch.zeros(1, 2, 4))
    assert match.indices.tolist() == [[1, 0]]


def test_ties_for_the_best_are_all_low_quality_matches() -> None:
    ious = torch.tensor([[[0.4, 0.1, 0.4, 0.39], [0.0, 0.2, 0.0, 0.1]]])
    assert is_low_quality_match(ious).tolist() == [[True, True, True, False]]
    # Seed document 003: whatever lies within 0.01 of the best, bounds included.
    assert is_low_quality_match(ious, margin=0.02).tolist() == [[True, True, True, True]]
    assert is_low_quality_match(ious, margin=0.001).tolist() == [[True, True, True, False]]


def test_a_box_that_nothing_overlaps_has_no_best() -> None:
    """Equality with a best of 0 would make every candidate positive."""
    ious = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.0, 0.1]]])
    assert is_low_quality_match(ious).tolist() == [[True, False, False]]
    assert is_low_quality_match(ious, margin=0.01).tolist() == [[True, False, False]]
    # Not even one whose best is so low that 0 is near it.
    assert is_low_quality_match(torch.tensor([[[0.005, 0.0]]]), margin=0.01).tolist() == [
        [True, False]
    ]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_boxes_can_be_matched(count: int) -> None:
    ground_truth, candidates = random_boxes(0, 2, count), random_boxes(1, 2, 6)
    is_target = torch.ones(2, count).bool()
    ious = masked_iou(ground_truth, is_target, candidates)
    match = best_match(ious, ground_truth, ~is_target, candidates)
    assert match.ious.shape == match.indices.shape == match.in_crowd.shape == (2, 6)
    assert not match.in_crowd.any()
    found = gather_boxes(ground_truth, match.indices)
    assert found.shape == (2, 6, 4)
    if count == 0:
        assert match.ious.abs().max() == 0
        assert found.abs().max() == 0
        assert not is_low_quality_match(ious).any()
    else:
        for i in range(2):
            assert torch.equal(found[i], ground_truth[i, ious[i].argmax(dim=0)])


def test_boxes_that_are_no_target_match_nothing() -> None:
    ground_truth, candidates = random_boxes(2, 1, 3), random_boxes(2, 1, 3)  # the same boxes
    is_target = torch.tensor([[True, False, True]])
    ious = masked_iou(ground_truth, is_target, candidates)
    assert ious[0, 1].abs().max() == 0
    assert ious[0].diagonal().tolist() == [1.0, 0.0, 1.0]


def test_a_candidate_is_in_a_crowd_from_half_its_area_on() -> None:
    crowd_box = torch.tensor([[[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 1000.0, 1000.0]]])
    crowd = torch.tensor([[True, False]])  # the second is an object, however much it covers
    candidates = torch.tensor(
        [
            [
                [10.0, 10.0, 20.0, 20.0],  # inside, its IoU with the region is only 0.01
                [95.0, 0.0, 105.0, 10.0],  # half inside
                [95.1, 0.0, 105.1, 10.0],
                [200.0, 200.0, 210.0, 210.0],
            ]
        ]
    )
    match = best_match(torch.zeros(1, 2, 4), crowd_box, crowd, candidates)
    assert match.in_crowd.tolist() == [[True, True, False, False]]
