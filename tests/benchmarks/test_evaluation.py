import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import evaluation
from benchmarks.agreement import DisagreementError
from benchmarks.evaluation import Work, agree, draw, measure


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A few images, scored in this process."""
    monkeypatch.setattr(evaluation, "run", evaluation.score)
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    return parser.parse_args(["--images", "5", "--detections", "8", "--classes", "3"])


def test_the_default_is_voc_test() -> None:
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    assert vars(parser.parse_args([])) == {"images": 4952, "detections": 100, "classes": 20}


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


def test_every_scorer_has_a_row_with_what_it_took(arguments: argparse.Namespace) -> None:
    pytest.importorskip("pycocotools")
    rows = {row["metric"]: row for row in measure(arguments)}
    assert set(rows) == set(evaluation.SCORERS)
    for name in ("VOC, rcnn", "COCO, rcnn", "COCO, torchmetrics"):
        row = rows[name]
        assert row["update + compute s"] == row["update s"] + row["compute s"]
        assert row["images"] == 5
    assert rows["COCO, rcnn"]["times ours"] == 1
    assert "times ours" not in rows["VOC, rcnn"]


def test_what_is_not_installed_is_said(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "PEERS", {"COCO, faster-coco-eval": "no_such_package"})
    *_, row = measure(arguments)
    assert row["metric"] == "COCO, faster-coco-eval"
    assert row["remark"] == "no_such_package is not installed"


def test_nothing_is_timed_when_numbers_differ(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Generous(evaluation.COCOAveragePrecision):
        def compute(self) -> dict[str, Any]:
            values = super().compute()
            return values | {"map_50": values["map_50"] + 0.01}

    def refuse(*_: object) -> None:
        raise AssertionError("it was timed")

    scorers: dict[str, Callable[..., Any]] = evaluation.SCORERS | {"COCO, generous": Generous}
    monkeypatch.setattr(evaluation, "SCORERS", scorers)
    monkeypatch.setattr(evaluation, "PEERS", {"COCO, generous": "torch"})
    monkeypatch.setattr(evaluation, "run", refuse)
    with pytest.raises(DisagreementError, match=r"map_50 is .* by COCO, rcnn and .*generous"):
        measure(arguments)


def test_undefined_numbers_agree_with_each_other_only() -> None:
    nan = float("nan")
    agree({"a": {"map": nan}, "b": {"map": nan}})
    with pytest.raises(DisagreementError, match="nan by a"):
        agree({"a": {"map": nan}, "b": {"map": 0.0}})
