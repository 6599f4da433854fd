from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from rcnn.metrics import matching as module
from rcnn.metrics.inputs import FlatDetections, FlatObjects
from rcnn.metrics.matching import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    Pairs,
    match,
    match_image,
    outcomes_of,
    overlapping_pairs,
    ranks_of,
    voc_outcomes,
)
from rcnn.structures import Detections, GroundTruth

TP, FP, IG = TRUE_POSITIVE, FALSE_POSITIVE, IGNORED

# One object, and boxes that overlap it by 0.9, 0.8 and 0.4.
OBJECT = [0.0, 0.0, 10.0, 10.0]
BY_90, BY_80, BY_40 = [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 4.0]
FAR_APART = [[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(3)]


def detections(*boxes: list[float], scores: Sequence[float] = (), label: int = 1) -> FlatDetections:
    return FlatDetections(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.tensor(scores or [0.5] * len(boxes)),
        labels=torch.full((len(boxes),), label),
        counts=torch.tensor([len(boxes)]),
    )


def objects(
    *boxes: list[float], ignore: Sequence[bool] = (), crowd: Sequence[bool] = ()
) -> FlatObjects:
    no = [False] * len(boxes)
    return FlatObjects(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.ones(len(boxes), dtype=torch.int64),
        ignore=torch.tensor(ignore or no, dtype=torch.bool),
        crowd=torch.tensor(crowd or no, dtype=torch.bool),
        areas=torch.ones(len(boxes)),
        counts=torch.tensor([len(boxes)]),
    )


# --- pairs and their overlaps ---------------------------------------------------------------


def overlap(a: list[float], b: list[float], plus_one: bool = False) -> float:
    pairs = overlapping_pairs(detections(a), objects(b), 0.0, plus_one)
    return float(pairs.overlaps[0])


def test_plus_one_counts_the_last_pixel() -> None:
    # Pixels 0..9 and 5..14 of one row: 5 of 15 are common.
    row, shifted = [0.0, 0.0, 9.0, 0.0], [5.0, 0.0, 14.0, 0.0]
    assert overlap(row, shifted, plus_one=True) == pytest.approx(5 / 15)
    assert overlap(row, shifted) == 0.0


def test_an_overlap_of_exactly_the_threshold_is_not_rounded_away() -> None:
    assert overlap(OBJECT, [0.0, 0.0, 10.0, 7.0]) == 0.7
    assert voc(detections(BY_80), objects(OBJECT), 0.8) == [TP]


def test_overlaps_are_torchvisions_iou() -> None:
    corners = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(0)) * 50
    sizes = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(1)) * 50
    a, b = torch.cat([corners, corners + sizes], dim=2)
    pairs = overlapping_pairs(detections(*a.tolist()), objects(*b.tolist()), 0.0)
    expected = box_iou(a.double(), b.double())[pairs.detections, pairs.objects]
    assert len(pairs.overlaps) == 900
    torch.testing.assert_close(torch.from_numpy(pairs.overlaps), expected)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_pairs_overlap_enough_however_many_are_listed_at_once(
    count: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OBJECTS_AT_ONCE", at_once)
    halves = [[x1, y1, x2, 5.0] for x1, y1, x2, _ in FAR_APART[:count]]
    crowd = [index == 1 for index in range(count)]
    sides = detections(*halves), objects(*FAR_APART[:count], crowd=crowd)
    pairs = overlapping_pairs(*sides, 0.5)
    assert pairs.detections.tolist() == pairs.objects.tolist() == list(range(count))
    assert pairs.overlaps.tolist() == [0.5, 1.0, 0.5][:count]  # the crowd contains its half
    assert overlapping_pairs(*sides, 0.6).objects.tolist() == [1][: max(count - 1, 0)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=10), st.lists(st.integers(0, 5), max_size=10))
def test_pairs_are_those_of_the_same_image_and_class(left: list[int], right: list[int]) -> None:
    # A number is an image, 0 to 2, and a class, 1 or 2.
    left, right = sorted(left), sorted(right)
    images, labels = (
        [torch.tensor([of(number) for number in side]).long() for side in (left, right)]
        for of in (lambda number: number // 2, lambda number: number % 2 + 1)
    )
    counts = [torch.bincount(side, minlength=3) for side in images]
    boxes = [torch.zeros(len(side), 4) for side in (left, right)]
    no = torch.zeros(len(right), dtype=torch.bool)
    pairs = overlapping_pairs(
        FlatDetections(boxes[0], labels[0], counts[0], torch.zeros(len(left))),
        FlatObjects(boxes[1], labels[1], counts[1], no, no, torch.ones(len(right))),
        0.0,
    )
    expected = [(d, o) for d, a in enumerate(left) for o, b in enumerate(right) if a == b]
    assert sorted(zip(pairs.detections.tolist(), pairs.objects.tolist(), strict=True)) == expected


def test_ranks_start_at_zero_in_every_image_and_class() -> None:
    found = FlatDetections(
        boxes=torch.zeros(6, 4),
        scores=torch.tensor([0.5, 0.1, 0.9, 0.5, 0.2, 0.7]),
        labels=torch.tensor([2, 1, 2, 2, 1, 2]),
        counts=torch.tensor([5, 1]),
    )
    ranked, order = found.ranked()
    assert order.tolist() == [4, 1, 2, 0, 3, 5]
    assert ranks_of(ranked).tolist() == [0, 1, 0, 1, 2, 0]


# --- COCO's rule ----------------------------------------------------------------------------


def coco_outcomes(
    overlaps: list[list[float]],
    ignored: Sequence[bool] = (),
    crowd: Sequence[bool] = (),
    thresholds: Sequence[float] = (0.5,),
) -> list[list[int]]:
    """The outcomes of the detections of one image and class, best first, for each threshold.

    One row of overlaps per detection.
    """
    table = np.array(overlaps)
    num_objects = table.shape[1]
    need_not = np.array(ignored or [False] * num_objects)
    rows, columns = np.nonzero(table >= min(thresholds))
    order = np.lexsort((-columns, -table[rows, columns], rows))
    matched = match(
        Pairs(rows, columns, table[rows, columns]).take(order),
        len(table),
        need_not,
        np.array(crowd or [False] * num_objects),
        np.array(thresholds),
    )
    result: list[list[int]] = outcomes_of(matched, need_not).tolist()
    return result


def test_a_taken_object_leaves_the_next_detection_the_second_best() -> None:
    # By VOC's rule the second detection would be a false positive.
    assert coco_outcomes([[0.9, 0.6], [0.8, 0.6]]) == [[TP, TP]]
    assert coco_outcomes([[0.9, 0.6], [0.8, 0.4]]) == [[TP, FP]]


def test_of_equal_overlaps_coco_takes_the_last_object() -> None:
    assert coco_outcomes([[0.7, 0.7], [0.7, 0.0]]) == [[TP, TP]]
    assert coco_outcomes([[0.7, 0.7], [0.0, 0.7]]) == [[TP, FP]]


def test_an_object_to_be_found_comes_before_an_ignored_one_that_fits_better() -> None:
    assert coco_outcomes([[0.6, 0.9]], ignored=[False, True]) == [[TP]]
    assert coco_outcomes([[0.6, 0.9]], ignored=[False, True], thresholds=[0.75]) == [[IG]]


def test_an_ignored_object_takes_one_detection_and_a_crowd_any_number() -> None:
    three = [[0.9], [0.8], [0.7]]
    assert coco_outcomes(three, ignored=[True]) == [[IG, FP, FP]]
    assert coco_outcomes(three, ignored=[True], crowd=[True]) == [[IG] * 3]


@settings(deadline=None)
@given(st.data())
def test_outcomes_are_those_of_going_through_the_detections_one_by_one(data: st.DataObject) -> None:
    num_objects = data.draw(st.integers(1, 5))
    twentieths = st.integers(0, 20).map(lambda count: count / 20)
    row = st.lists(twentieths, min_size=num_objects, max_size=num_objects)
    flags = st.lists(st.booleans(), min_size=num_objects, max_size=num_objects)
    overlaps = data.draw(st.lists(row, min_size=1, max_size=8))
    crowd = data.draw(flags)
    ignored = [a or b for a, b in zip(data.draw(flags), crowd, strict=True)]
    thresholds = [0.3, 0.5]
    expected = []
    for threshold in thresholds:
        free, one_by_one = set(range(num_objects)), []
        for of_detection in overlaps:
            able = [g for g in free if of_detection[g] >= threshold]
            if not able:
                one_by_one.append(FP)
                continue
            best = max(able, key=lambda g: (not ignored[g], of_detection[g], g))
            free -= set() if crowd[best] else {best}
            one_by_one.append(IG if ignored[best] else TP)
        expected.append(one_by_one)
    assert coco_outcomes(overlaps, ignored, crowd, thresholds) == expected


# --- VOC's rule -----------------------------------------------------------------------------


def voc(found: FlatDetections, there: FlatObjects, threshold: float = 0.5) -> list[int]:
    """The outcomes of detections in the order given."""
    ranked, order = found.ranked()
    (outcomes,) = voc_outcomes(ranked, there, np.array([threshold]))
    return [outcomes[rank] for rank in order.argsort().tolist()]


@pytest.mark.parametrize(
    ("threshold", "outcomes"),
    [(0.3, [FP, FP, TP]), (0.5, [FP, TP, FP]), (0.85, [TP, FP, FP]), (0.95, [FP, FP, FP])],
)
def test_the_true_positive_has_the_best_score_not_the_best_overlap(
    threshold: float, outcomes: list[int]
) -> None:
    found = detections(BY_90, BY_80, BY_40, scores=[0.2, 0.7, 0.9])
    assert voc(found, objects(OBJECT), threshold) == outcomes


@pytest.mark.parametrize("flag", ["ignore", "crowd"])
def test_a_difficult_object_ignores_any_number_of_detections(flag: str) -> None:
    found = detections(BY_90, BY_80, BY_40, scores=[0.2, 0.7, 0.9])
    ground_truth = objects(OBJECT, ignore=[flag == "ignore"], crowd=[flag == "crowd"])
    assert voc(found, ground_truth) == [IG, IG, FP]


def test_a_detection_goes_to_its_best_object_even_if_another_is_free() -> None:
    # Both detections overlap the first object more, and the second still enough.
    found = detections(BY_90, BY_80, scores=[0.9, 0.5])
    both = objects(OBJECT, [0.0, 0.0, 10.0, 6.0])
    assert voc(found, both) == [TP, FP]


@pytest.mark.parametrize(("ignore", "outcome"), [([True, False], IG), ([False, True], TP)])
def test_of_equal_overlaps_voc_takes_the_first_object(ignore: list[bool], outcome: int) -> None:
    left_and_right = objects(OBJECT, [10.0, 0.0, 20.0, 10.0], ignore=ignore)
    assert voc(detections([5.0, 0.0, 15.0, 10.0]), left_and_right, 0.3) == [outcome]


# --- one image ------------------------------------------------------------------------------


def test_an_image_is_matched_with_its_difficult_objects_crowds_and_regions() -> None:
    crowd, region = [200.0, 0.0, 300.0, 100.0], [400.0, 0.0, 500.0, 100.0]
    ground_truth = GroundTruth(
        boxes=torch.tensor([OBJECT, FAR_APART[1], crowd, region]),
        labels=torch.tensor([1, 1, 1, 0]),
        difficult=torch.tensor([False, True, False, False]),
        crowd=torch.tensor([False, False, True, True]),
        areas=torch.ones(4),
    )
    in_crowd, in_region = [210.0, 10.0, 220.0, 20.0], [410.0, 10.0, 420.0, 20.0]
    rows = [
        (BY_80, 0.6, 1, FP),
        (BY_90, 0.9, 1, TP),
        (FAR_APART[1], 0.8, 1, IG),
        (FAR_APART[1], 0.7, 1, IG),
        (in_crowd, 0.5, 1, IG),
        (in_crowd, 0.4, 2, FP),
        (in_region, 0.3, 1, IG),
        (in_region, 0.2, 2, IG),
        (BY_90, 1.0, 2, FP),
    ]
    boxes, scores, labels, expected = (list(column) for column in zip(*rows, strict=True))
    found = Detections(
        torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), ("cat", "dog")
    )
    outcomes, objects_found = match_image(found, ground_truth)
    assert outcomes.tolist() == expected
    assert objects_found.tolist() == [True, False, False, False]


@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("num_detections", [0, 1, 3])
def test_an_image_may_have_any_number_of_boxes(num_objects: int, num_detections: int) -> None:
    boxes = torch.tensor(FAR_APART)
    one, no = torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    n, m = num_detections, num_objects
    outcomes, found = match_image(
        Detections(boxes[:n], torch.ones(n), one[:n], ("cat",)),
        GroundTruth(boxes[:m], one[:m], no[:m], no[:m], torch.ones(m)),
    )
    assert outcomes.tolist() == [TP if index < m else FP for index in range(n)]
    assert found.tolist() == [index < n for index in range(m)]
