from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.metrics import matching as module
from rcnn.metrics.inputs import FlatDetections, FlatObjects
from rcnn.metrics.matching import (
    HIT,
    MISS,
    NOT_COUNTED,
    Pairs,
    claim,
    ranks_within_groups,
    reaching_pairs,
)


def fates(
    overlaps: list[list[float]],
    ignored: Sequence[bool] = (),
    crowd: Sequence[bool] = (),
    thresholds: Sequence[float] = (0.5,),
) -> list[list[int]]:
    """The fates of the detections of one image and class, best first, for each threshold.

    One row of overlaps per detection. Those that reach no object stay misses.
    """
    table = np.array(overlaps)
    pairs = Pairs(*np.nonzero(table >= min(thresholds)))
    num_objects = table.shape[1]
    settled = claim(
        pairs,
        table[pairs.detections, pairs.objects],
        np.arange(len(table)),
        np.array(crowd or [False] * num_objects),
        np.array([ignored or [False] * num_objects]),
        np.array(thresholds),
    )
    result = np.full((len(thresholds), len(table)), MISS)
    result[:, settled.detections] = settled.fates[0]
    return result.tolist()


def test_a_taken_object_leaves_the_next_detection_the_second_best() -> None:
    # By VOC's rule the second detection would be a miss.
    assert fates([[0.9, 0.6], [0.8, 0.6]]) == [[HIT, HIT]]
    assert fates([[0.9, 0.6], [0.8, 0.4]]) == [[HIT, MISS]]


def test_of_equal_overlaps_the_last_object_is_taken() -> None:
    assert fates([[0.7, 0.7], [0.7, 0.0]]) == [[HIT, HIT]]
    assert fates([[0.7, 0.7], [0.0, 0.7]]) == [[HIT, MISS]]


def test_an_object_to_be_found_comes_before_an_ignored_one_that_fits_better() -> None:
    assert fates([[0.6, 0.9]], ignored=[False, True]) == [[HIT]]
    assert fates([[0.6, 0.9]], ignored=[False, True], thresholds=[0.75]) == [[NOT_COUNTED]]


def test_an_ignored_object_absorbs_one_detection_and_a_crowd_any_number() -> None:
    three = [[0.9], [0.8], [0.7]]
    assert fates(three, ignored=[True]) == [[NOT_COUNTED, MISS, MISS]]
    assert fates(three, ignored=[True], crowd=[True]) == [[NOT_COUNTED] * 3]


def test_each_threshold_has_a_matching_of_its_own() -> None:
    table = [[0.6, 0.0], [0.9, 0.7]]
    assert fates(table, thresholds=[0.5, 0.65, 0.8, 0.95]) == [
        [HIT, HIT],
        [MISS, HIT],
        [MISS, HIT],
        [MISS, MISS],
    ]


twentieths = st.integers(0, 20).map(lambda count: count / 20)


@given(st.data())
def test_fates_are_those_of_the_plain_loop(data: st.DataObject) -> None:
    num_objects = data.draw(st.integers(1, 5))
    row = st.lists(twentieths, min_size=num_objects, max_size=num_objects)
    flags = st.lists(st.booleans(), min_size=num_objects, max_size=num_objects)
    overlaps = data.draw(st.lists(row, min_size=1, max_size=6))
    crowd = data.draw(flags)
    ignored = [a or b for a, b in zip(data.draw(flags), crowd, strict=True)]
    expected, free = [], set(range(num_objects))
    for of_detection in overlaps:
        able = [g for g in free if of_detection[g] >= 0.5]
        if not able:
            expected.append(MISS)
            continue
        best = max(able, key=lambda g: (not ignored[g], of_detection[g], g))
        free -= set() if crowd[best] else {best}
        expected.append(NOT_COUNTED if ignored[best] else HIT)
    assert fates(overlaps, ignored, crowd) == [expected]


def test_ranks_begin_anew_in_every_group_and_keep_the_order_of_equal_scores() -> None:
    groups = np.array([7, 3, 7, 7, 3])
    scores = np.float32([0.5, 0.1, 0.9, 0.5, 0.2])
    assert ranks_within_groups(groups, scores).tolist() == [1, 1, 0, 2, 0]


def boxes(count: int) -> tuple[FlatDetections, FlatObjects]:
    """So many objects far apart, the second of them a crowd, and a detection of half of each."""
    corners = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(count)])
    corners = corners.reshape(-1, 4)
    halves = corners * torch.tensor([1.0, 1.0, 1.0, 0.5])
    labels = torch.ones(count, dtype=torch.int64)
    no = torch.zeros(count, dtype=torch.bool)
    crowd = torch.arange(count) == 1
    counts = torch.tensor([count])
    return (
        FlatDetections(halves, torch.ones(count), labels, counts),
        FlatObjects(corners, labels, no, crowd, torch.full((count,), 100.0), counts),
    )


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_pairs_are_those_that_overlap_enough_however_many_are_listed_at_once(
    count: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DETECTIONS_AT_ONCE", at_once)
    pairs, overlaps = reaching_pairs(*boxes(count), threshold=0.5)
    assert pairs.detections.tolist() == pairs.objects.tolist() == list(range(count))
    assert overlaps.tolist() == [0.5, 1.0, 0.5][:count]  # a crowd contains its half wholly
    pairs, _ = reaching_pairs(*boxes(count), threshold=0.6)
    assert pairs.objects.tolist() == [1][: max(count - 1, 0)]
