from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rcnn.metrics import ProposalRecall

Images = list[dict[str, Tensor]]


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_average_recall_of_pycocotools(
    random_images: Callable[..., tuple[Images, Images]],
    pycocotools: Callable[..., Any],
    seed: int,
) -> None:
    predictions, targets = random_images(seed)
    metric = ProposalRecall(limits=(1, 3, 10))
    for start in range(0, len(targets), 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    values = metric.compute()
    # Ignored objects as crowds: they take any number of proposals, and need not be found.
    found = [image | {"labels": torch.ones_like(image["labels"])} for image in predictions]
    objects = [
        image
        | {"labels": torch.ones_like(image["labels"]), "crowd": image["crowd"] | image["ignore"]}
        for image in targets
    ]
    oracle = pycocotools(found, objects, 1, limits=[1, 3, 10])
    expected = torch.from_numpy(oracle.eval["recall"][:, 0, 0, :]).float()
    assert 0 < expected[0, 0] < expected[0, 2] < 1
    for column, limit in enumerate((1, 3, 10)):
        torch.testing.assert_close(values[f"recall_{limit}"], expected[:, column].mean())
        torch.testing.assert_close(values[f"recall_{limit}_50"], expected[0, column])


def test_recall_of_one_object_covered_by_four_fifths() -> None:
    metric = ProposalRecall(limits=(1, 2))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 8.0], [50.0, 50.0, 60.0, 60.0]])
    metric.update(
        [{"boxes": boxes, "scores": torch.tensor([0.1, 0.9])}],
        [{"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]])}],
    )
    values = {name: float(value) for name, value in metric.compute().items()}
    # Covered at 0.5, 0.55, ..., 0.8, by the second best proposal.
    assert values == pytest.approx(
        {"recall_1": 0.0, "recall_1_50": 0.0, "recall_2": 0.7, "recall_2_50": 1.0}
    )


@pytest.mark.parametrize(("flag", "label"), [("ignore", 1), ("crowd", 1), ("crowd", 0)])
def test_ignored_and_crowd_boxes_and_regions_of_no_class_take_no_part(
    flag: str, label: int
) -> None:
    metric = ProposalRecall()
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, label])}
    metric.update(
        [{"boxes": boxes[:1], "scores": torch.ones(1)}],
        [target | {flag: torch.tensor([False, True])}],
    )
    assert metric.compute()["recall_100"] == 1.0


def test_default_limits_name_the_results() -> None:
    metric = ProposalRecall()
    metric.update([], [])
    names = set(metric.compute())
    assert names >= {"recall_100", "recall_300", "recall_1000"}


@pytest.mark.parametrize("limits", [(), (0, 100)])
def test_an_impossible_limit_is_an_error(limits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="limits"):
        ProposalRecall(limits=limits)
