import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rcnn.metrics import COCOAveragePrecision

Images = list[dict[str, Tensor]]
TWELVE = [
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
]


class HonouringIgnore(COCOeval):
    """pycocotools, which forgets the ignore flag when it prepares, reminded of it."""

    def _prepare(self) -> None:
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation["ignore"] = annotation["iscrowd"] or annotation["difficult"]


def pycocotools(predictions: Images, targets: Images, num_classes: int) -> HonouringIgnore:
    def annotations(images: Images) -> list[dict[str, Any]]:
        return [
            {"image_id": number, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, image in enumerate(images, start=1)
            for (x1, y1, x2, y2), label in zip(
                image["boxes"].tolist(), image["labels"], strict=True
            )
        ]

    ground_truth, found = annotations(targets), annotations(predictions)
    for key, name in (("crowd", "iscrowd"), ("ignore", "difficult"), ("area", "area")):
        values = torch.cat([image[key] for image in targets]).tolist()
        for annotation, value in zip(ground_truth, values, strict=True):
            annotation[name] = value
    for number, annotation in enumerate(ground_truth, start=1):
        annotation["id"] = number
    scores = torch.cat([image["scores"] for image in predictions]).tolist()
    for annotation, score in zip(found, scores, strict=True):
        annotation["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": number} for number in range(1, 1 + len(targets))],
            "annotations": ground_truth,
            "categories": [{"id": number} for number in range(1, 1 + num_classes)],
            "info": {},
        }
        data.createIndex()
        evaluation = HonouringIgnore(data, data.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def nan_for_undefined(values: list[float] | np.ndarray) -> Tensor:
    expected = torch.tensor(np.array(values), dtype=torch.float32)
    return torch.where(expected < 0, float("nan"), expected)


def assert_equal_to_pycocotools(
    values: dict[str, Tensor], predictions: Images, targets: Images, num_classes: int
) -> None:
    oracle = pycocotools(predictions, targets, num_classes)
    measured = torch.stack([values[name] for name in TWELVE])
    torch.testing.assert_close(measured, nan_for_undefined(oracle.stats), equal_nan=True)
    precision = oracle.eval["precision"][:, :, :, 0, 2]  # T R K; a class is undefined as a whole
    per_class = nan_for_undefined(precision.mean(axis=(0, 1)))
    torch.testing.assert_close(values["map_per_class"], per_class, equal_nan=True)
    per_class = nan_for_undefined(precision[0].mean(axis=0))
    torch.testing.assert_close(values["map_50_per_class"], per_class, equal_nan=True)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_examples(stored: Callable[[str], Any], case: int) -> None:
    example = stored("torchmetrics_map.json")["cases"][case]
    # The labels of that file begin with 0.
    metric = COCOAveragePrecision(50)
    for prediction, target in zip(example["preds"], example["targets"], strict=True):
        boxes, objects = (
            torch.tensor(image["boxes"]).reshape(-1, 4) for image in (prediction, target)
        )
        labels, object_labels = (
            torch.tensor(image["labels"], dtype=torch.int64) + 1 for image in (prediction, target)
        )
        metric.update(
            [{"boxes": boxes, "scores": torch.tensor(prediction["scores"]), "labels": labels}],
            [{"boxes": objects, "labels": object_labels}],
        )
    values = metric.compute()
    measured = torch.stack([values[name] for name in TWELVE])
    expected = nan_for_undefined(example["expected"])
    torch.testing.assert_close(measured, expected, atol=1e-6, rtol=0, equal_nan=True)
    for label, expected_ap in example.get("ap_per_class", {}).items():
        measured_ap = values["map_per_class"][int(label)]
        expected_ap = nan_for_undefined(expected_ap)
        torch.testing.assert_close(measured_ap, expected_ap, atol=5e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_with_crowds_ties_and_empty_images(
    random_images: Callable[..., tuple[Images, Images]], seed: int
) -> None:
    predictions, targets = random_images(seed)
    metric = COCOAveragePrecision(["a", "b", "c", "never"])
    for start in range(0, len(targets), 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    assert_equal_to_pycocotools(metric.compute(), predictions, targets, 4)


def test_equals_pycocotools_with_more_than_a_hundred_detections_of_a_class(
    random_images: Callable[..., tuple[Images, Images]],
) -> None:
    predictions, targets = random_images(7, num_images=3, num_classes=2)
    crowded = [
        {key: value.repeat(40, *[1] * (value.ndim - 1)) for key, value in image.items()}
        for image in predictions
    ]
    assert max(len(image["boxes"]) for image in crowded) > 200
    metric = COCOAveragePrecision(2)
    metric.update(crowded, targets)
    assert_equal_to_pycocotools(metric.compute(), crowded, targets, 2)


BOX = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
ONE = torch.tensor([1])


def score(boxes: Tensor, scores: list[float], **flags: Tensor) -> dict[str, Tensor]:
    """One counted object at (0, 0, 20, 20), one at (50, 50, 90, 90) with the given flags."""
    metric = COCOAveragePrecision(1)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    objects = torch.cat([BOX, torch.tensor([[50.0, 50.0, 90.0, 90.0]])])
    metric.update(
        [{"boxes": boxes, "scores": torch.tensor(scores), "labels": labels}],
        [{"boxes": objects, "labels": torch.tensor([1, 1]), **flags}],
    )
    return metric.compute()


def test_an_ignored_object_is_neither_hit_nor_miss() -> None:
    ignore = torch.tensor([False, True])
    assert score(BOX, [0.5], ignore=ignore)["map"] == pytest.approx(1.0)
    both = torch.cat([BOX, torch.tensor([[50.0, 50.0, 90.0, 88.0]])])
    assert score(both, [0.5, 0.9], ignore=ignore)["map_50"] == pytest.approx(1.0)


def test_a_small_part_is_absorbed_by_a_crowd_but_not_by_an_ignored_object() -> None:
    part = torch.cat([BOX, torch.tensor([[60.0, 60.0, 65.0, 65.0]])])
    flag = torch.tensor([False, True])
    assert score(part, [0.5, 0.9], crowd=flag)["map_50"] == pytest.approx(1.0)
    assert score(part, [0.5, 0.9], ignore=flag)["map_50"] == pytest.approx(0.5)


def test_area_decides_the_size_class() -> None:
    target = {"boxes": BOX, "labels": ONE}
    by_area = []
    for image in (target, target | {"area": torch.tensor([2000.0])}):
        metric = COCOAveragePrecision(1)
        metric.update([{"boxes": BOX, "scores": torch.ones(1), "labels": ONE}], [image])
        values = metric.compute()
        by_area.append((bool(values["map_small"].isnan()), bool(values["map_medium"].isnan())))
    assert by_area == [(False, True), (True, False)]


@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("num_detections", [0, 1, 3])
def test_any_number_of_boxes_is_ordinary(num_objects: int, num_detections: int) -> None:
    far_apart = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(3)])
    labels = torch.ones(3, dtype=torch.int64)
    metric = COCOAveragePrecision(["thing"])
    metric.update(
        [
            {
                "boxes": far_apart[:num_detections],
                "scores": torch.full((num_detections,), 0.5),
                "labels": labels[:num_detections],
            }
        ],
        [{"boxes": far_apart[:num_objects], "labels": labels[:num_objects]}],
    )
    values = metric.compute()
    assert values["mar_large"].isnan()
    if num_objects == 0:
        assert all(value.isnan().all() for value in values.values())
    else:
        found = min(num_objects, num_detections) / num_objects
        assert values["mar_100"] == pytest.approx(found)


def test_without_any_image_everything_is_nan() -> None:
    metric = COCOAveragePrecision(2)
    metric.update([], [])
    values = metric.compute()
    assert set(values) == {*TWELVE, "map_per_class", "map_50_per_class"}
    assert all(value.isnan().all() for value in values.values())


def test_nothing_is_printed_or_logged(
    random_images: Callable[..., tuple[Images, Images]],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    metric = COCOAveragePrecision(4)
    metric.update(*random_images(0))
    metric.compute()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
