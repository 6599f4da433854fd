"""Non-maximum suppression against torchvision, image by image and group by group."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import nms

from rcnn.ops.boxes import iou
from rcnn.ops.nms import soft_nms, suppress
from tests.ops.inputs import GEOMETRY, random_boxes


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of PyTorch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _reference(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float
) -> list[int]:
    """What stays of one image, best first (of equal scores, the one listed first)."""
    kept: list[int] = []
    for group in groups.unique().tolist():
        members = ((groups == group) & valid).nonzero().squeeze(1)
        kept += members[nms(boxes[members], scores[members], threshold)].tolist()
    return sorted(kept, key=lambda i: (-scores[i].item(), i))


def _kept(result: tuple[Tensor, Tensor], image: int) -> list[int]:
    indices, used = result
    return indices[image][used[image]].tolist()


def test_published_case() -> None:
    case = GEOMETRY["iou_tv"]
    boxes, scores = torch.tensor([case["float_boxes"]]), torch.tensor([case["nms_scores"]])
    groups = torch.zeros(1, 3).long()
    result = suppress(boxes, scores, groups, groups == 0, case["nms_iou_thr"], 10)
    assert _kept(result, 0) == case["nms_keep"]


@given(
    images=st.integers(1, 3),
    count=st.integers(1, 40),
    groups=st.integers(1, 4),
    levels=st.sampled_from([3, 1000000]),  # few levels: many equal scores
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_equals_torchvision_image_by_image_and_group_by_group(
    images: int, count: int, groups: int, levels: int, threshold: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, count, 2, 2, generator=generator).sort(dim=-2).values * 64
    boxes = (corners * 4).round().flatten(-2) / 4
    scores = torch.randint(levels, (images, count), generator=generator) / levels
    group = torch.randint(groups, (images, count), generator=generator)
    valid = torch.rand(images, count, generator=generator) < 0.8
    result = suppress(boxes, scores, group, valid, threshold, count)
    for i in range(images):
        expected = _reference(boxes[i], scores[i], group[i], valid[i], threshold)
        assert _kept(result, i) == expected


@pytest.mark.parametrize("count", [120, 700])
def test_many_classes_of_a_large_batch_do_not_blur_the_boxes(count: int) -> None:
    """Moving each group to a place of its own costs digits: 8 images of 80 classes cost many."""
    generator = torch.Generator().manual_seed(0)
    sizes = 4 + 12 * torch.rand(8, count, 2, generator=generator)
    corners = torch.rand(8, count, 2, generator=generator) * 20 + 900
    boxes = torch.cat([corners, corners + sizes], dim=-1)
    scores = torch.rand(8, count, generator=generator)
    group = 80 - torch.randint(2, (8, count), generator=generator)
    everything = torch.ones(8, count).bool()
    result = suppress(boxes, scores, group, everything, 0.5, count)
    for i in range(8):
        expected = _reference(boxes[i], scores[i], group[i], everything[i], 0.5)
        assert _kept(result, i) == expected


def test_the_limit_keeps_the_best_of_each_image() -> None:
    boxes = torch.arange(12).float()[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    boxes = boxes.view(2, 6, 4)  # all apart
    scores = torch.tensor([[0.1, 0.6, 0.3, 0.5, 0.2, 0.4], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])
    group, valid = torch.tensor([[0, 1] * 3] * 2), torch.ones(2, 6).bool()
    valid[1, 2:] = False
    indices, used = suppress(boxes, scores, group, valid, 0.5, 3)
    assert indices.shape == used.shape == (2, 3)
    assert indices[0].tolist() == [1, 3, 5]
    assert used.tolist() == [[True, True, True], [True, True, False]]
    assert indices[1, :2].tolist() == [0, 1]


def test_a_box_goes_only_above_the_threshold() -> None:
    # IoU exactly 0.5
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]]])
    scores, group = torch.tensor([[0.9, 0.8]]), torch.zeros(1, 2).long()
    assert _kept(suppress(boxes, scores, group, group == 0, 0.5, 2), 0) == [0, 1]
    assert _kept(suppress(boxes, scores, group, group == 0, 0.49, 2), 0) == [0]


def test_nothing_to_suppress() -> None:
    for count in (0, 5):  # no boxes, and none that is valid
        nothing = torch.zeros(2, count)
        boxes = torch.ones(2, count, 4)
        indices, used = suppress(boxes, nothing, nothing.long(), nothing.bool(), 0.5, 7)
        assert indices.shape == used.shape == (2, count)
        assert not used.any()


def test_half_precision_is_compared_in_full() -> None:
    boxes, scores = random_boxes(3, 1, 30, extent=900.0), torch.linspace(0.1, 0.9, 30)[None]
    group, everything = torch.zeros(1, 30).long(), torch.ones(1, 30).bool()
    half = suppress(boxes.bfloat16(), scores.bfloat16(), group, everything, 0.5, 30)
    full = suppress(boxes.bfloat16().float(), scores.bfloat16().float(), group, everything, 0.5, 30)
    assert _kept(half, 0) == _kept(full, 0)


@pytest.mark.parametrize("number", [1, 2, 8])
@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("limit", [200, 900, 5000])
def test_many_candidates_on_any_number_of_threads(
    threads: Callable[[int], None], number: int, groups: int, limit: int
) -> None:
    """So many that most are compared with their neighbours only."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(3, 2500, 2, generator=generator) * 400
    boxes = torch.cat([corners, corners + 10 + corners.flip(-1) / 8], dim=-1)
    scores = torch.randint(1000, (3, 2500), generator=generator) / 1000  # many equal ones
    group = torch.randint(groups, (3, 2500), generator=generator)
    valid = torch.rand(3, 2500, generator=generator) < torch.tensor([[1.0], [0.7], [0.0]])
    threads(number)
    result = suppress(boxes, scores, group, valid, 0.7, limit)
    for i in range(3):
        expected = _reference(boxes[i].double(), scores[i].double(), group[i], valid[i], 0.7)
        assert _kept(result, i) == expected[:limit]


def _soft_reference(
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
            final = _soft_reference(given_boxes, given_scores, rule, threshold, sigma)
            plain = torch.tensor(final, dtype=torch.float64)
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


@pytest.mark.parametrize("rule", ["linear", "gaussian"])
def test_boxes_apart_and_single_boxes_keep_their_scores(rule: Any) -> None:
    apart = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 9.0]])
    for count in (0, 1, 3):
        soft = soft_nms(apart[:count], SCORES[:count], rule, 0.3, 0.5, 0.0, 10)
        assert torch.equal(soft, SCORES[:count])


def test_hard_suppression_keeps_what_softening_leaves_alone() -> None:
    """A score stays whole only where nothing better that was chosen overlaps."""
    boxes, scores = random_boxes(1, 40), torch.rand(40, generator=torch.Generator().manual_seed(0))
    soft = soft_nms(boxes, scores, "linear", 0.5, 0.5, 0.0, 40)
    whole = (soft == scores).nonzero().squeeze(1).tolist()
    assert set(whole) <= set(nms(boxes, scores, 0.5).tolist())
    overlaps = iou(boxes, boxes)
    for i in set(range(40)) - set(whole):
        assert (overlaps[i] >= 0.5).sum() > 1
