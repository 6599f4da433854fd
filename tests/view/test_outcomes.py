from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.structures import Detections, GroundTruth
from rcnn.view.outcomes import judge

Detected = Callable[..., Detections]
Annotated = Callable[..., GroundTruth]


def test_the_right_class_at_the_right_place_is_correct(
    detected: Detected, annotated: Annotated
) -> None:
    outcomes = judge(detected((0, 0, 10, 10, 0.9, 1)), annotated((0, 0, 10, 9, 1)))
    assert outcomes.correct.tolist() == [True]
    assert outcomes.found.tolist() == [True]


def test_the_wrong_class_finds_nothing(detected: Detected, annotated: Annotated) -> None:
    outcomes = judge(detected((0, 0, 10, 10, 0.9, 2)), annotated((0, 0, 10, 10, 1)))
    assert outcomes.correct.tolist() == [False]
    assert outcomes.found.tolist() == [False]


@pytest.mark.parametrize(("x2", "correct"), [(5.0, True), (4.9, False)])
def test_the_smallest_iou_is_enough(
    detected: Detected, annotated: Annotated, x2: float, correct: bool
) -> None:
    outcomes = judge(detected((0, 0, x2, 10, 0.9, 1)), annotated((0, 0, 10, 10, 1)))
    assert outcomes.correct.tolist() == [correct]


def test_an_object_is_found_once_and_by_the_best_score(
    detected: Detected, annotated: Annotated
) -> None:
    twice = detected((0, 0, 10, 10, 0.6, 1), (0, 0, 10, 8, 0.9, 1))
    assert judge(twice, annotated((0, 0, 10, 10, 1))).correct.tolist() == [False, True]


def test_a_second_detection_takes_the_next_object(detected: Detected, annotated: Annotated) -> None:
    both = detected((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 1))
    outcomes = judge(both, annotated((0, 0, 10, 10, 1), (0, 0, 10, 8, 1)))
    assert outcomes.correct.tolist() == [True, True]
    assert outcomes.found.tolist() == [True, True]


def test_detections_of_a_difficult_object_do_not_count(
    detected: Detected, annotated: Annotated
) -> None:
    both = detected((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 1))
    outcomes = judge(both, annotated((0, 0, 10, 10, 1), difficult=(0,)))
    assert outcomes.ignored.tolist() == [True, True]
    assert outcomes.correct.tolist() == [False, False]
    assert outcomes.found.tolist() == [False]


def test_small_detections_inside_a_crowd_do_not_count(
    detected: Detected, annotated: Annotated
) -> None:
    rows = detected((5, 5, 10, 10, 0.9, 1), (95, 5, 115, 10, 0.8, 1), (5, 5, 10, 10, 0.7, 2))
    outcomes = judge(rows, annotated((0, 0, 100, 100, 1), crowd=(0,)))
    assert outcomes.ignored.tolist() == [True, False, False]


def test_an_object_that_counts_goes_before_a_crowd(
    detected: Detected, annotated: Annotated
) -> None:
    ground_truth = annotated((0, 0, 100, 100, 1), (5, 5, 10, 10, 1), crowd=(0,))
    outcomes = judge(detected((5, 5, 10, 10, 0.9, 1)), ground_truth)
    assert outcomes.correct.tolist() == [True]
    assert outcomes.ignored.tolist() == [False]
    assert outcomes.found.tolist() == [False, True]


@pytest.mark.parametrize("objects", [0, 3])
@pytest.mark.parametrize("detections", [0, 3])
def test_nothing_is_an_ordinary_number(
    detected: Detected, annotated: Annotated, objects: int, detections: int
) -> None:
    found = detected(*[(20 * i, 0, 20 * i + 10, 10, 0.5, 1) for i in range(detections)])
    ground_truth = annotated(*[(20 * i, 0, 20 * i + 10, 10, 1) for i in range(objects)])
    outcomes = judge(found, ground_truth)
    assert outcomes.correct.tolist() == [objects > 0] * detections
    assert outcomes.found.tolist() == [detections > 0] * objects


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**16))
def test_as_many_detections_are_correct_as_objects_are_found(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        corners = torch.rand(count, 2, generator=generator) * 10
        return torch.cat([corners, corners + 10], 1)

    found = Detections(
        boxes(n), torch.rand(n, generator=generator), torch.ones(n, dtype=torch.long), ("cat",)
    )
    flags = torch.rand(2, m, generator=generator) > 0.7
    ground_truth = GroundTruth(
        boxes(m), torch.ones(m, dtype=torch.long), flags[0], flags[1], torch.ones(m)
    )
    outcomes = judge(found, ground_truth, 0.3)
    assert outcomes.correct.sum() == outcomes.found.sum()
    assert not (outcomes.found & (ground_truth.difficult | ground_truth.crowd)).any()
    assert not (outcomes.correct & outcomes.ignored).any()
