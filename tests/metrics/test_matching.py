import pytest
import torch

from rcnn.metrics.inputs import FlatDetections, FlatObjects
from rcnn.metrics.matching import HIT, MISS, NOT_COUNTED, outcomes

# One object, and boxes that overlap it by 0.9, 0.8 and 0.4.
OBJECT = [0.0, 0.0, 10.0, 10.0]
BY_90, BY_80, BY_40 = [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 4.0]


def detections(*boxes: list[float], scores: list[float], label: int = 1) -> FlatDetections:
    return FlatDetections(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.full((len(boxes),), label),
        counts=torch.tensor([len(boxes)]),
    )


def objects(*boxes: list[float], ignore: bool = False, crowd: bool = False) -> FlatObjects:
    return FlatObjects(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.ones(len(boxes), dtype=torch.int64),
        ignore=torch.full((len(boxes),), ignore),
        crowd=torch.full((len(boxes),), crowd),
        areas=torch.ones(len(boxes)),
        counts=torch.tensor([len(boxes)]),
    )


def test_the_best_scored_detection_is_the_hit_not_the_best_placed() -> None:
    found = detections(BY_90, BY_80, BY_40, scores=[0.2, 0.7, 0.9])
    assert outcomes(found, objects(OBJECT), [0.5])[:, 0].tolist() == [MISS, HIT, MISS]


def test_each_threshold_has_its_own_outcome() -> None:
    found = detections(BY_90, BY_80, BY_40, scores=[0.2, 0.7, 0.9])
    table = outcomes(found, objects(OBJECT), [0.3, 0.5, 0.85, 0.95])
    assert table.T.tolist() == [
        [MISS, MISS, HIT],
        [MISS, HIT, MISS],
        [HIT, MISS, MISS],
        [MISS, MISS, MISS],
    ]


def test_an_overlap_of_exactly_the_threshold_is_enough() -> None:
    found = detections(BY_80, scores=[0.5])
    assert outcomes(found, objects(OBJECT), [0.8]).tolist() == [[HIT]]


@pytest.mark.parametrize("flag", ["ignore", "crowd"])
def test_detections_of_a_difficult_object_are_not_counted_however_many(flag: str) -> None:
    found = detections(BY_90, BY_80, BY_40, scores=[0.2, 0.7, 0.9])
    table = outcomes(found, objects(OBJECT, **{flag: True}), [0.5])
    assert table[:, 0].tolist() == [NOT_COUNTED, NOT_COUNTED, MISS]


def test_a_detection_goes_to_its_best_object_even_if_another_is_free() -> None:
    # Both detections overlap the first object more, and the second still enough.
    second = [0.0, 0.0, 10.0, 6.0]
    found = detections(BY_90, BY_80, scores=[0.9, 0.5])
    first_and_second = objects(OBJECT, second)
    assert outcomes(found, first_and_second, [0.5])[:, 0].tolist() == [HIT, MISS]


def test_of_equal_overlaps_the_first_object_is_taken() -> None:
    left_and_right = objects([0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0])
    middle = [5.0, 0.0, 15.0, 10.0]
    difficult_first = FlatObjects(
        **(vars(left_and_right) | {"ignore": torch.tensor([True, False])})
    )
    difficult_last = FlatObjects(**(vars(left_and_right) | {"ignore": torch.tensor([False, True])}))
    found = detections(middle, scores=[0.5])
    assert outcomes(found, difficult_first, [0.3]).tolist() == [[NOT_COUNTED]]
    assert outcomes(found, difficult_last, [0.3]).tolist() == [[HIT]]


def test_of_equal_scores_the_first_detection_is_the_hit() -> None:
    found = detections(BY_80, BY_90, scores=[0.5, 0.5])
    assert outcomes(found, objects(OBJECT), [0.5])[:, 0].tolist() == [HIT, MISS]


def test_another_class_is_not_an_object_to_hit() -> None:
    assert outcomes(detections(BY_90, scores=[0.5], label=2), objects(OBJECT), [0.5]).tolist() == [
        [MISS]
    ]


def test_another_image_is_not_an_object_to_hit() -> None:
    found = FlatDetections(
        **(vars(detections(BY_90, scores=[0.5])) | {"counts": torch.tensor([0, 1])})
    )
    ground_truth = FlatObjects(**(vars(objects(OBJECT)) | {"counts": torch.tensor([1, 0])}))
    assert outcomes(found, ground_truth, [0.5]).tolist() == [[MISS]]


@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("num_detections", [0, 1, 3])
def test_any_number_of_boxes_is_ordinary(num_objects: int, num_detections: int) -> None:
    far_apart = [[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(3)]
    found = detections(*far_apart[:num_detections], scores=[0.5] * num_detections)
    table = outcomes(found, objects(*far_apart[:num_objects]), [0.5])
    hits = min(num_objects, num_detections)
    assert table[:, 0].tolist() == [HIT] * hits + [MISS] * (num_detections - hits)
