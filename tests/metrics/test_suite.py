import math
from dataclasses import replace

import pytest
import torch

from rcnn.metrics.suite import Scores
from rcnn.structures import Detections, GroundTruth, ImageBatch, Proposals

FAR_APART = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 50, 50.0] for i in range(3)])
ONE, NO = torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
SIZE = torch.tensor([[200, 400]])
BATCH = ImageBatch(torch.zeros(1, 3, 100, 200), SIZE // 2, SIZE)


def ground_truth(count: int) -> GroundTruth:
    return GroundTruth(FAR_APART[:count], ONE[:count], NO[:count], NO[:count], torch.ones(count))


def detections(count: int, names: tuple[str, ...]) -> Detections:
    return Detections(FAR_APART[:count], torch.ones(count), ONE[:count], names)


def proposals(count: int) -> Proposals:
    """The objects in an image half as large."""
    return Proposals(FAR_APART[None, :count] / 2, torch.ones(1, count), ~NO[None, :count])


@pytest.mark.parametrize("names", [("cat",), ("cat", "dog")])
@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("found", [0, 1, 3])
def test_any_number_of_objects_of_one_class_or_two(
    found: int, num_objects: int, names: tuple[str, ...]
) -> None:
    scores = Scores(names)
    scores.update([detections(found, names)], [ground_truth(num_objects)], proposals(found), BATCH)
    headline, per_class = scores.compute()
    assert list(per_class) == list(names)
    assert set(per_class["cat"]) == {"map", "map_50", "voc_ap", "voc07_ap"}
    recall = min(found, num_objects) / num_objects if num_objects else math.nan
    assert headline["recall_100"] == pytest.approx(recall, nan_ok=True)
    assert headline["mar_100"] == pytest.approx(recall, nan_ok=True)
    for name, of_class in (("voc_map", "voc_ap"), ("voc07_map", "voc07_ap"), ("map", "map")):
        # The second class has no object, so that the mean is the first one's.
        assert headline[name] == pytest.approx(per_class["cat"][of_class], nan_ok=True)
        assert math.isnan(headline[name]) == (num_objects == 0)
    if len(names) == 2:
        assert all(math.isnan(value) for value in per_class["dog"].values())


def test_invalid_proposals_do_not_count() -> None:
    scores = Scores(["cat"])
    padded = replace(proposals(2), valid=torch.tensor([[True, False]]))
    scores.update([detections(0, ("cat",))], [ground_truth(2)], padded, BATCH)
    assert scores.compute()[0]["recall_100"] == 0.5


def test_a_detector_without_classes_has_recall_only() -> None:
    scores = Scores(["cat"])
    scores.update(None, [ground_truth(1)], proposals(1), BATCH)
    headline, per_class = scores.compute()
    assert headline["recall_100"] == 1.0
    assert "map" not in headline
    assert per_class == {}


def test_a_detector_that_is_given_no_proposals_has_no_recall() -> None:
    scores = Scores(["cat"])
    scores.update([detections(1, ("cat",))], [ground_truth(1)])
    headline, per_class = scores.compute()
    assert headline["map"] == per_class["cat"]["map"] == pytest.approx(1.0)
    assert "recall_100" not in headline
    scores.reset()
    assert scores.compute() == ({}, {})
