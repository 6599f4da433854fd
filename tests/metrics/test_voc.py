from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.metrics import VOCAveragePrecision
from rcnn.metrics.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from rcnn.metrics.voc import eleven_point_ap, every_point_ap

Images = list[dict[str, Tensor]]
TP, FP, IG = TRUE_POSITIVE, FALSE_POSITIVE, IGNORED


def ranked(*outcomes: int) -> np.ndarray:
    return np.array(outcomes, dtype=np.int8)


def test_every_point_ap_by_hand() -> None:
    # Precisions 1, 1/2, 2/3, 1/2 at recalls 1/3, 1/3, 2/3, 2/3; a third object is never found.
    assert every_point_ap(ranked(TP, FP, TP, FP), 3) == pytest.approx((1 + 2 / 3) / 3)


def test_eleven_point_ap_by_hand() -> None:
    # Levels 0 to 0.3 have precision 1, 0.4 to 0.6 have 2/3, the others 0.
    expected = (4 * 1 + 3 * 2 / 3) / 11
    assert eleven_point_ap(ranked(TP, FP, TP, FP), 3) == pytest.approx(expected)


@pytest.mark.parametrize("average_precision", [every_point_ap, eleven_point_ap])
def test_bounds_of_ap(average_precision: Callable[[np.ndarray, int], float]) -> None:
    assert average_precision(ranked(TP, TP, FP), 2) == pytest.approx(1.0)
    assert average_precision(ranked(FP, FP), 2) == 0.0
    assert average_precision(ranked(), 2) == 0.0
    assert np.isnan(average_precision(ranked(), 0))
    assert np.isnan(average_precision(ranked(FP), 0))


@pytest.mark.parametrize("average_precision", [every_point_ap, eleven_point_ap])
def test_an_ignored_detection_changes_nothing(
    average_precision: Callable[[np.ndarray, int], float],
) -> None:
    without = average_precision(ranked(FP, TP, FP, TP), 3)
    with_ignored = ranked(IG, FP, TP, IG, FP, TP, IG)
    assert average_precision(with_ignored, 3) == without


def test_three_of_ten_objects_just_miss_recall_three_tenths_as_in_published_figures() -> None:
    assert eleven_point_ap(ranked(TP, TP, TP), 10) == pytest.approx(3 / 11)
    assert eleven_point_ap(ranked(TP, TP), 10) == pytest.approx(3 / 11)
    assert eleven_point_ap(ranked(TP, TP, TP, TP), 10) == pytest.approx(5 / 11)


def test_the_precision_of_a_level_is_the_best_at_that_recall_or_beyond() -> None:
    assert every_point_ap(ranked(FP, TP, TP), 2) == pytest.approx(2 / 3)
    assert eleven_point_ap(ranked(FP, TP, TP), 2) == pytest.approx(2 / 3)


def padilla(stored: Callable[[str], Any], plus_one: bool) -> tuple[dict[str, Tensor], Any]:
    content = stored("padilla7.json")
    metric = VOCAveragePrecision(["object"], iou_threshold=[0.1, 0.3, 0.5, 0.75], plus_one=plus_one)
    for image in content["images"]:
        detections, objects = torch.tensor(image["detections"]), torch.tensor(image["objects"])
        scores = torch.tensor(image["scores"])
        labels = torch.ones(len(detections), dtype=torch.int64)
        metric.update(
            [{"boxes": detections, "scores": scores, "labels": labels}],
            [{"boxes": objects, "labels": torch.ones(len(objects), dtype=torch.int64)}],
        )
    return metric.compute(), content["expected_plus_one" if plus_one else "expected_continuous"]


@pytest.mark.parametrize("plus_one", [True, False])
@pytest.mark.parametrize(
    ("threshold", "suffix"), [("0.1", ""), ("0.3", "_30"), ("0.5", "_50"), ("0.75", "_75")]
)
def test_published_example(
    stored: Callable[[str], Any], plus_one: bool, threshold: str, suffix: str
) -> None:
    values, expected = padilla(stored, plus_one)
    for name in ("voc", "voc07"):
        assert float(values[f"{name}_map{suffix}"]) == pytest.approx(
            expected[name][threshold], abs=1e-7
        )


def devkit(
    predictions: Images, targets: Images, label: int, threshold: float, plus_one: bool
) -> tuple[Fraction, Fraction]:
    """AP of one class, every point and 11-point, as the devkit's loops go about it."""
    found = [
        (float(score), number, box.tolist())
        for number, image in enumerate(predictions)
        for box, score, of in zip(image["boxes"], image["scores"], image["labels"], strict=True)
        if of == label
    ]
    found.sort(key=lambda detection: -detection[0])
    extra = Fraction(int(plus_one))
    taken: set[tuple[int, int]] = set()
    num_objects, true_positives, false_positives = 0, 0, 0
    for image in targets:
        left_out = image["ignore"] | image["crowd"]
        num_objects += int(((image["labels"] == label) & ~left_out).sum())
    curve: list[tuple[Fraction, Fraction]] = []
    for _, number, box in found:
        image = targets[number]
        best, best_index = Fraction(-1), -1
        for index, other in enumerate(image["boxes"].tolist()):
            if image["labels"][index] != label:
                continue
            x1, y1, x2, y2 = (Fraction(value) for value in box)
            a1, b1, a2, b2 = (Fraction(value) for value in other)
            width = min(x2, a2) - max(x1, a1) + extra
            height = min(y2, b2) - max(y1, b1) + extra
            if width <= 0 or height <= 0:
                continue
            own = (x2 - x1 + extra) * (y2 - y1 + extra)
            its = (a2 - a1 + extra) * (b2 - b1 + extra)
            overlap = width * height / (own + its - width * height)
            if overlap > best:
                best, best_index = overlap, index
        if best >= Fraction(str(threshold)):
            if image["ignore"][best_index] or image["crowd"][best_index]:
                continue
            if (number, best_index) in taken:
                false_positives += 1
            else:
                taken.add((number, best_index))
                true_positives += 1
        else:
            false_positives += 1
        curve.append(
            (
                Fraction(true_positives, num_objects),
                Fraction(true_positives, true_positives + false_positives),
            )
        )

    def best_from(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    steps = sorted({r for r, _ in curve} - {Fraction(0)})
    area = sum(
        (
            best_from(r) * (r - previous)
            for previous, r in zip([Fraction(0), *steps[:-1]], steps, strict=True)
        ),
        Fraction(0),
    )
    eleven = [
        max((p for r, p in curve if float(r) >= level), default=Fraction(0))
        for level in np.arange(0, 1.1, 0.1)
    ]
    return area, sum(eleven, Fraction(0)) / 11


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loops_of_the_devkit(
    random_images: Callable[..., tuple[Images, Images]],
    seed: int,
    threshold: float,
    plus_one: bool,
) -> None:
    predictions, targets = random_images(seed)
    metric = VOCAveragePrecision(4, threshold, plus_one)
    for start in range(0, len(targets), 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    values = metric.compute()
    expected = [devkit(predictions, targets, label, threshold, plus_one) for label in (1, 2, 3)]
    area, eleven = (
        torch.tensor([*(float(pair[i]) for pair in expected), float("nan")]) for i in range(2)
    )
    assert 0 < area[0] < 1
    torch.testing.assert_close(values["voc_ap_per_class"], area, equal_nan=True)
    torch.testing.assert_close(values["voc07_ap_per_class"], eleven, equal_nan=True)
    torch.testing.assert_close(values["voc_map"], area[:3].mean())
    torch.testing.assert_close(values["voc07_map"], eleven[:3].mean())


def test_a_region_of_unknown_class_ignores_detections_of_any_class_that_are_no_object() -> None:
    # Worked by hand: boxes 1 and 2 find the objects, 3 and 4 lie in the region (4 by a half of its
    # area), 5 by a quarter and 6 not at all.
    objects = torch.tensor([[0.0, 0, 20, 20], [30.0, 0, 50, 20], [0.0, 0, 100, 100]])
    target = {"boxes": objects, "labels": torch.tensor([1, 2, 0])}
    target["crowd"] = torch.tensor([False, False, True])
    rows = [
        ([0.0, 0, 20, 19], 0.5, 1),
        ([30.0, 0, 50, 19], 0.5, 2),
        ([60.0, 60, 80, 80], 0.9, 1),
        ([90.0, 0, 110, 20], 0.9, 2),
        ([95.0, 0, 115, 20], 0.8, 2),
        ([200.0, 0, 220, 20], 0.7, 2),
    ]
    boxes, scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    metric = VOCAveragePrecision(3)
    metric.update([{"boxes": boxes, "scores": scores, "labels": labels}], [target])
    values = metric.compute()
    # Class 2: two false positives before the true one. The third class has no object.
    expected = torch.tensor([1.0, 1 / 3, float("nan")])
    torch.testing.assert_close(values["voc_ap_per_class"], expected, equal_nan=True)


def test_the_mean_skips_classes_without_objects() -> None:
    boxes, labels = torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([2])
    metric = VOCAveragePrecision(["bird", "cat", "dog"])
    found = {"boxes": boxes.repeat(2, 1), "scores": torch.tensor([0.5, 0.6])}
    metric.update([found | {"labels": torch.tensor([2, 3])}], [{"boxes": boxes, "labels": labels}])
    values = metric.compute()
    assert values["voc_map"] == values["voc07_map"] == 1.0
    assert values["voc_ap_per_class"].isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("threshold", [0.0, 1.1, [], [0.5, -0.5]])
def test_an_impossible_threshold_is_an_error(threshold: float | list[float]) -> None:
    with pytest.raises(ValueError, match="iou_threshold"):
        VOCAveragePrecision(2, threshold)
