from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.metrics import COCOAveragePrecision

Images = list[dict[str, Tensor]]
TWELVE = [
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
]


def nan_for_undefined(values: list[float] | np.ndarray) -> Tensor:
    expected = torch.tensor(np.array(values), dtype=torch.float32)
    return torch.where(expected < 0, float("nan"), expected)


def assert_equal(values: dict[str, Tensor], oracle: Any) -> None:
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
    random_images: Callable[..., tuple[Images, Images]],
    pycocotools: Callable[..., Any],
    seed: int,
) -> None:
    predictions, targets = random_images(seed)
    metric = COCOAveragePrecision(["a", "b", "c", "never"])
    for start in range(0, len(targets), 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    assert_equal(metric.compute(), pycocotools(predictions, targets, 4))


@pytest.mark.parametrize("seed", range(3))
def test_equals_faster_coco_eval(
    random_images: Callable[..., tuple[Images, Images]],
    pycocotools: Callable[..., Any],
    seed: int,
) -> None:
    predictions, targets = random_images(seed)
    targets = [image | {"ignore": torch.zeros_like(image["ignore"])} for image in targets]
    metric = COCOAveragePrecision(4)
    metric.update(predictions, targets)
    oracle = pycocotools(predictions, targets, 4, faster=True)
    values = metric.compute()
    measured = torch.stack([values[name] for name in TWELVE])
    torch.testing.assert_close(measured, nan_for_undefined(oracle.stats[:12]), equal_nan=True)


def test_a_region_of_unknown_class_is_a_crowd_of_every_class(
    random_images: Callable[..., tuple[Images, Images]], pycocotools: Callable[..., Any]
) -> None:
    predictions, targets = random_images(11)
    region = {
        "boxes": torch.tensor([[0.0, 0.0, 90.0, 90.0], [40.0, 100.0, 200.0, 200.0]]),
        "ignore": torch.tensor([False, False]),
        "crowd": torch.tensor([True, True]),
        "area": torch.tensor([8100.0, 16000.0]),
    }

    def with_regions(*labels: int) -> Images:
        no_ignored = [image | {"ignore": torch.zeros_like(image["ignore"])} for image in targets]
        regions = [region | {"labels": torch.full((2,), label)} for label in labels]
        return [
            {key: torch.cat([one[key] for one in (image, *regions)]) for key in image}
            for image in no_ignored
        ]

    plain, unknown = COCOAveragePrecision(4), COCOAveragePrecision(4)
    plain.update(predictions, with_regions())
    unknown.update(predictions, with_regions(0))
    assert unknown.compute()["map"] > plain.compute()["map"] + 0.02
    assert_equal(unknown.compute(), pycocotools(predictions, with_regions(1, 2, 3, 4), 4))


def test_equals_pycocotools_with_more_than_a_hundred_detections_of_a_class(
    random_images: Callable[..., tuple[Images, Images]],
    pycocotools: Callable[..., Any],
) -> None:
    predictions, targets = random_images(7, num_images=3, num_classes=2)
    crowded = [
        {key: value.repeat(40, *[1] * (value.ndim - 1)) for key, value in image.items()}
        for image in predictions
    ]
    assert max(len(image["boxes"]) for image in crowded) > 200
    metric = COCOAveragePrecision(2)
    metric.update(crowded, targets)
    assert_equal(metric.compute(), pycocotools(crowded, targets, 2))


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


def test_an_ignored_object_need_not_be_found_and_is_no_false_positive() -> None:
    ignore = torch.tensor([False, True])
    assert score(BOX, [0.5], ignore=ignore)["map"] == pytest.approx(1.0)
    both = torch.cat([BOX, torch.tensor([[50.0, 50.0, 90.0, 88.0]])])
    assert score(both, [0.5, 0.9], ignore=ignore)["map_50"] == pytest.approx(1.0)


def test_a_small_part_is_ignored_in_a_crowd_but_not_in_an_ignored_object() -> None:
    part = torch.cat([BOX, torch.tensor([[60.0, 60.0, 65.0, 65.0]])])
    flag = torch.tensor([False, True])
    assert score(part, [0.5, 0.9], crowd=flag)["map_50"] == pytest.approx(1.0)
    assert score(part, [0.5, 0.9], ignore=flag)["map_50"] == pytest.approx(0.5)


def test_a_region_of_unknown_class_ignores_what_lies_in_it_by_enough() -> None:
    # The region covers 40 / 44 of the first box, which is ignored at IoU 0.5 to 0.9, and a false
    # positive at 0.95; all of the second, which is no object's; and the object, which is found.
    region = {
        "boxes": torch.cat([BOX, torch.tensor([[0.0, 0.0, 100.0, 90.0]])]),
        "labels": torch.tensor([2, 0]),
        "crowd": torch.tensor([False, True]),
    }
    boxes = torch.cat([torch.tensor([[50.0, 50.0, 90.0, 94.0], [30.0, 30.0, 40.0, 40.0]]), BOX])
    boxes[0, 3] = 50 + 40 / 0.9
    found = {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([2] * 3),
    }
    metric = COCOAveragePrecision(2)
    metric.update([found], [region])
    values = metric.compute()
    assert values["map_50"] == 1.0
    assert values["map"] == pytest.approx((9 * 1 + 0.5) / 10)
    assert values["map_per_class"].isnan().tolist() == [True, False]  # a region is no object
    assert values["mar_100"] == 1.0


def test_area_decides_the_size_class() -> None:
    target = {"boxes": BOX, "labels": ONE}
    by_area = []
    for image in (target, target | {"area": torch.tensor([2000.0])}):
        metric = COCOAveragePrecision(1)
        metric.update([{"boxes": BOX, "scores": torch.ones(1), "labels": ONE}], [image])
        values = metric.compute()
        by_area.append((bool(values["map_small"].isnan()), bool(values["map_medium"].isnan())))
    assert by_area == [(False, True), (True, False)]
