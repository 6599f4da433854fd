from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.metrics import DetectionErrors
from rcnn.metrics.analysis import KINDS

Images = list[dict[str, Tensor]]
CAT, DOG = 1, 2
OBJECT = [0.0, 0.0, 10.0, 10.0]
COVERING, TOUCHING, ELSEWHERE = (
    [0.0, 0.0, 10.0, 9.0],
    [0.0, 0.0, 10.0, 3.0],
    [50.0, 50.0, 60.0, 60.0],
)


def count(
    detections: list[tuple[list[float], int]],
    objects: list[tuple[list[float], int]],
    **flags: Tensor,
) -> dict[str, int]:
    """Those counts that are not zero; the detections' scores fall from 0.9."""
    metric = DetectionErrors(["cat", "dog"])
    predictions, targets = (
        {
            "boxes": torch.tensor([box for box, _ in boxes]).reshape(-1, 4),
            "labels": torch.tensor([label for _, label in boxes], dtype=torch.int64),
        }
        for boxes in (detections, objects)
    )
    scores = 0.9 - 0.1 * torch.arange(len(detections))
    metric.update([predictions | {"scores": scores}], [targets | flags])
    values = metric.compute()
    counts = {kind: int(values[f"errors_{kind}"]) for kind in KINDS}
    return {kind: number for kind, number in counts.items() if number}


@pytest.mark.parametrize(
    ("box", "label", "expected"),
    [
        (COVERING, CAT, {"hit": 1}),
        (COVERING, DOG, {"classification": 1}),
        (TOUCHING, CAT, {"localisation": 1}),
        (TOUCHING, DOG, {"both": 1, "missed": 1}),
        (ELSEWHERE, CAT, {"background": 1, "missed": 1}),
        (ELSEWHERE, DOG, {"background": 1, "missed": 1}),
    ],
)
def test_one_detection_of_one_cat(box: list[float], label: int, expected: dict[str, int]) -> None:
    assert count([(box, label)], [(OBJECT, CAT)]) == expected


def test_a_second_detection_of_a_found_object_is_a_duplicate() -> None:
    assert count([(COVERING, CAT), (OBJECT, CAT)], [(OBJECT, CAT)]) == {"hit": 1, "duplicate": 1}


def test_an_overlap_of_exactly_the_threshold_covers() -> None:
    half = [0.0, 0.0, 10.0, 5.0]
    assert count([(OBJECT, CAT), (half, CAT)], [(OBJECT, CAT)]) == {"hit": 1, "duplicate": 1}
    assert count([(half, DOG)], [(OBJECT, CAT)]) == {"classification": 1}


def test_an_overlap_of_exactly_the_lower_threshold_touches() -> None:
    tenth = [0.0, 0.0, 10.0, 1.0]
    assert count([(tenth, CAT)], [(OBJECT, CAT)]) == {"localisation": 1}
    assert count([(tenth, DOG)], [(OBJECT, CAT)]) == {"both": 1, "missed": 1}


def test_a_wrong_class_explains_an_object_only_once() -> None:
    two_cats = [(OBJECT, CAT), (ELSEWHERE, CAT)]
    assert count([(COVERING, DOG)], two_cats) == {"classification": 1, "missed": 1}


def test_a_covered_object_of_another_class_outweighs_a_touched_one_of_its_own() -> None:
    assert count([(TOUCHING, CAT)], [(OBJECT, CAT), (TOUCHING, DOG)]) == {
        "classification": 1,
        "missed": 1,
    }


def test_a_hit_explains_only_the_first_of_two_equal_objects() -> None:
    assert count([(OBJECT, CAT)], [(OBJECT, CAT), (OBJECT, CAT)]) == {"hit": 1, "missed": 1}


@pytest.mark.parametrize("flag", ["ignore", "crowd"])
def test_an_ignored_object_is_not_missed_and_its_detection_not_counted(flag: str) -> None:
    assert count([(COVERING, CAT)], [(OBJECT, CAT)], **{flag: torch.tensor([True])}) == {}
    assert count([], [(OBJECT, CAT)], **{flag: torch.tensor([True])}) == {}
    assert count([(COVERING, DOG)], [(OBJECT, CAT)], **{flag: torch.tensor([True])}) == {
        "background": 1
    }


@pytest.mark.parametrize("num_objects", [0, 1, 3])
def test_without_detections_every_object_is_missed(num_objects: int) -> None:
    expected = {"missed": num_objects} if num_objects else {}
    assert count([], [(OBJECT, CAT)] * num_objects) == expected


def test_detections_below_the_score_take_no_part() -> None:
    metric = DetectionErrors(1, min_score=0.5)
    boxes = torch.tensor([OBJECT, ELSEWHERE, ELSEWHERE])
    labels = torch.ones(3, dtype=torch.int64)
    found = {"boxes": boxes, "scores": torch.tensor([0.5, 0.49, 0.1]), "labels": labels}
    metric.update([found], [{"boxes": boxes[:1], "labels": labels[:1]}])
    values = metric.compute()
    assert (int(values["errors_hit"]), int(values["errors_background"])) == (1, 0)


def test_every_detection_and_every_object_is_accounted_for(
    random_images: Callable[..., tuple[Images, Images]],
) -> None:
    predictions, targets = random_images(9)
    for image in targets:
        image["ignore"][:] = image["crowd"][:] = False
    metric = DetectionErrors(4, min_score=0.2)
    metric.update(predictions, targets)
    values = metric.compute()
    detections = torch.cat([image["labels"][image["scores"] >= 0.2] for image in predictions])
    of_detections = sum(values[f"errors_{kind}_per_class"] for kind in KINDS[:-1])
    assert of_detections.tolist() == torch.bincount(detections, minlength=5)[1:].tolist()
    assert all(values[f"errors_{kind}"] > 0 for kind in KINDS)
    objects = sum(len(image["labels"]) for image in targets)
    assert int(values["errors_hit"] + values["errors_missed"]) <= objects


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.0, 0.5), (0.1, 1.5)])
def test_impossible_thresholds_are_an_error(thresholds: tuple[float, float]) -> None:
    background_iou, iou_threshold = thresholds
    with pytest.raises(ValueError, match="background_iou < iou_threshold"):
        DetectionErrors(2, iou_threshold=iou_threshold, background_iou=background_iou)
