"""Every scorer gets the same boxes, and is timed only if it gives the same numbers."""

import argparse
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from benchmarks import evaluation
from benchmarks.agreement import DisagreementError
from benchmarks.evaluation import Images, Work, check, draw, measure
from rcnn.metrics import COCOAveragePrecision


class Generous:
    """COCO's numbers, one of them too high."""

    def __init__(self, classes: int) -> None:
        self.metric = COCOAveragePrecision(classes)

    def update(self, predictions: Images, targets: Images) -> None:
        self.metric.update(predictions, targets)

    def compute(self) -> Mapping[str, Any]:
        values = self.metric.compute()
        return {**values, "map_50": values["map_50"] + 0.01}


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A few images, scored in this process."""
    monkeypatch.setattr(evaluation, "run", evaluation.score)
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    return parser.parse_args(["--images", "5", "--detections", "8", "--classes", "3"])


def test_drawn_boxes_are_as_many_as_asked_and_the_same_for_one_seed() -> None:
    work = Work(images=40, detections=7, classes=3)
    predictions, targets = draw(work)
    assert [len(image["boxes"]) for image in predictions] == [7] * 40
    assert min(len(image["boxes"]) for image in targets) >= 1
    for image in (*predictions, *targets):
        assert (image["boxes"][:, 2:] >= image["boxes"][:, :2]).all()
        assert image["labels"].min() >= 1
        assert image["labels"].max() <= 3
    torch.testing.assert_close(draw(work), (predictions, targets))


def test_every_scorer_has_a_row_with_its_cost(arguments: argparse.Namespace) -> None:
    pytest.importorskip("pycocotools")
    rows = {row["metric"]: row for row in measure(arguments)}
    assert set(rows) == set(evaluation.SCORERS)
    for name in ("VOC, rcnn", "COCO, rcnn", "COCO, torchmetrics"):
        row = rows[name]
        assert row["update + compute s"] == float(row["update s"]) + float(row["compute s"])
        assert row["images"] == 5
    assert rows["COCO, rcnn"]["times ours"] == 1
    assert "times ours" not in rows["VOC, rcnn"]


def test_a_package_that_is_not_installed_is_named(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation.SCORERS, "COCO, other", ("no_such_package", Generous))
    *_, row = measure(arguments)
    assert row["metric"] == "COCO, other"
    assert "no_such_package" in str(row["remark"])


def test_nothing_is_timed_when_numbers_differ(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation.SCORERS, "COCO, generous", ("torch", Generous))
    monkeypatch.setattr(evaluation, "run", lambda *_: pytest.fail("was timed"))
    with pytest.raises(DisagreementError, match=r"map_50 .*rcnn.*generous"):
        measure(arguments)


def test_undefined_numbers_agree_with_each_other_only() -> None:
    nan = float("nan")
    check({"a": {"map": nan}, "b": {"map": nan}})
    with pytest.raises(DisagreementError, match="map is nan by a"):
        check({"a": {"map": nan}, "b": {"map": 0.0}})
