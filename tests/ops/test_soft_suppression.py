"""Soft suppression against a loop over boxes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import nms

from rcnn.ops.boxes import iou
from rcnn.ops.nms import soft_nms

Boxes = Callable[..., Tensor]


def _reference(
    boxes: list[Any], scores: list[float], rule: str, threshold: float, sigma: float
) -> list[float]:
    """The algorithm of figure 2, one box at a time: the score with which each box is chosen."""
    scores, left, final = list(scores), list(range(len(boxes))), [0.0] * len(boxes)
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        final[best] = scores[best]
        for i in left:
            (x1, y1, x2, y2), (a1, b1, a2, b2) = boxes[best], boxes[i]
            shared = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
            overlap = shared / union if union > 0 else 0.0
            if rule == "gaussian":
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap
    return final


@given(
    count=st.integers(1, 12),
    rule=st.sampled_from(["linear", "gaussian"]),
    threshold=st.sampled_from([0.1, 0.3, 0.7]),
    sigma=st.sampled_from([0.2, 0.5, 1.0]),
    score=st.sampled_from([0.0, 0.05, 0.4]),
    limit=st.sampled_from([1, 4, 100]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_equals_the_plain_algorithm_in_every_group(
    count: int, rule: Any, threshold: float, sigma: float, score: float, limit: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 3, count, 2, 2, generator=generator, dtype=torch.float64)
    boxes = corners.sort(dim=-2).values.flatten(-2) * 60
    scores = torch.rand(2, 3, count, generator=generator, dtype=torch.float64)
    scores[torch.rand(2, 3, count, generator=generator) < 0.2] = 0.0  # takes no part
    soft = soft_nms(boxes, scores, rule, threshold, sigma, score, limit)
    for image in range(2):
        for group in range(3):
            given_boxes, given_scores = boxes[image, group].tolist(), scores[image, group].tolist()
            plain = torch.tensor(
                _reference(given_boxes, given_scores, rule, threshold, sigma), dtype=torch.float64
            )
            found = soft[image, group]
            # Of interest are the best so many above the cut-off.
            order = plain.argsort(descending=True)[:limit]
            wanted = order[plain[order] > score]
            assert_close(found[wanted], plain[wanted])
            others = torch.ones(count).bool()
            others[wanted] = False
            assert (found[others] <= score).all() or len(wanted) == limit
            assert (found > score).sum() == len(wanted)


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0], [50.0, 0.0, 60.0, 10.0]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def test_linear_by_hand() -> None:
    soft = soft_nms(BOXES, SCORES, "linear", 0.3, 0.5, 0.0, 10)
    assert_close(soft, torch.tensor([0.9, 0.8 * 0.4, 0.7]))  # IoU 0.6
    # An overlap below the threshold costs nothing, the threshold itself does.
    assert_close(soft_nms(BOXES, SCORES, "linear", 0.61, 0.5, 0.0, 10), SCORES)
    half = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 4.0]])
    soft = soft_nms(half, SCORES[:2], "linear", 0.5, 0.5, 0.0, 10)
    assert_close(soft, torch.tensor([0.9, 0.4]))


def test_gaussian_by_hand() -> None:
    expected = torch.tensor([0.9, 0.8 * math.exp(-(0.6**2) / 0.5), 0.7])
    assert_close(soft_nms(BOXES, SCORES, "gaussian", 0.3, 0.5, 0.0, 10), expected)


def test_a_box_that_lost_its_score_is_chosen_late() -> None:
    """The second best box decays below the third, which it would have cost more than it does."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 4.0]])
    soft = soft_nms(boxes, SCORES, "linear", 0.3, 0.5, 0.0, 10)
    third = 0.7 * 0.6  # IoU 0.4 with the best
    assert_close(soft, torch.tensor([0.9, 0.8 * 0.2 * 0.5, third]))


@pytest.mark.parametrize("rule", ["linear", "gaussian"])
def test_boxes_apart_and_single_boxes_keep_their_scores(rule: Any) -> None:
    apart = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 9.0]])
    for count in (0, 1, 3):
        soft = soft_nms(apart[:count], SCORES[:count], rule, 0.3, 0.5, 0.0, 10)
        assert torch.equal(soft, SCORES[:count])


def test_an_image_is_softened_alike_in_any_batch(random_boxes: Boxes) -> None:
    boxes, scores = random_boxes(0, 3, 2, 30), torch.rand(3, 2, 30)
    together = soft_nms(boxes, scores, "gaussian", 0.3, 0.5, 0.05, 20)
    for i in range(3):
        alone = soft_nms(boxes[i : i + 1], scores[i : i + 1], "gaussian", 0.3, 0.5, 0.05, 20)[0]
        assert torch.equal(together[i] > 0.05, alone > 0.05)
        assert_close(together[i][alone > 0.05], alone[alone > 0.05])


def test_hard_suppression_keeps_what_softening_leaves_alone(random_boxes: Boxes) -> None:
    """A score stays whole only where nothing better that was chosen overlaps."""
    boxes, scores = random_boxes(1, 40), torch.rand(40, generator=torch.Generator().manual_seed(0))
    soft = soft_nms(boxes, scores, "linear", 0.5, 0.5, 0.0, 40)
    whole = (soft == scores).nonzero().squeeze(1).tolist()
    assert set(whole) <= set(nms(boxes, scores, 0.5).tolist())
    overlaps = iou(boxes, boxes)
    for i in set(range(40)) - set(whole):
        assert (overlaps[i] >= 0.5).sum() > 1
