import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rcnn.metrics import ProposalRecall
from rcnn.metrics.recall import NEVER, claiming_ranks

Images = list[dict[str, Tensor]]
overlaps = arrays(
    np.float64,
    st.tuples(st.integers(0, 8), st.integers(0, 5)),
    elements=st.integers(0, 20).map(lambda twentieths: twentieths / 20),
)


def test_a_proposal_claims_the_object_that_it_overlaps_most() -> None:
    ranks = claiming_ranks(np.array([[0.6, 0.8], [0.7, 0.9]]), np.array([0.5, 0.75, 0.95]))
    assert ranks.tolist() == [[1, 0], [NEVER, 0], [NEVER, NEVER]]


def test_a_better_ranked_proposal_goes_first_even_if_a_later_one_fits_better() -> None:
    ranks = claiming_ranks(np.array([[0.6], [0.9]]), np.array([0.5, 0.7]))
    assert ranks.tolist() == [[0], [1]]


@given(overlaps)
def test_ranks_are_those_of_the_plain_loop(table: np.ndarray) -> None:
    thresholds = np.array([0.3, 0.5, 0.75])
    expected = np.full((3, table.shape[1]), NEVER)
    for row, threshold in enumerate(thresholds):
        for proposal, overlap in enumerate(table):
            free = [g for g in range(len(overlap)) if expected[row, g] == NEVER]
            able = [g for g in free if overlap[g] >= threshold]
            if able:
                expected[row, max(able, key=lambda g: (overlap[g], g))] = proposal
    assert claiming_ranks(table, thresholds).tolist() == expected.tolist()


def pycocotools(predictions: Images, targets: Images, limits: list[int]) -> np.ndarray:
    """Recall without classes, T by number of limits."""

    def annotations(images: Images) -> list[dict[str, object]]:
        return [
            {"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, image in enumerate(images, start=1)
            for x1, y1, x2, y2 in image["boxes"].tolist()
        ]

    ground_truth, found = annotations(targets), annotations(predictions)
    crowd = torch.cat([image["crowd"] | image["ignore"] for image in targets]).tolist()
    for number, (annotation, flag) in enumerate(zip(ground_truth, crowd, strict=True), start=1):
        annotation.update(id=number, iscrowd=int(flag), area=1.0)
    scores = torch.cat([image["scores"] for image in predictions]).tolist()
    for annotation, score in zip(found, scores, strict=True):
        annotation["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": number} for number in range(1, 1 + len(targets))],
            "annotations": ground_truth,
            "categories": [{"id": 1}],
            "info": {},
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    recall: np.ndarray = evaluation.eval["recall"][:, 0, 0, :]
    return recall


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_average_recall_of_pycocotools(
    random_images: Callable[..., tuple[Images, Images]], seed: int
) -> None:
    predictions, targets = random_images(seed)
    metric = ProposalRecall(limits=(1, 3, 10))
    for start in range(0, len(targets), 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    values = metric.compute()
    expected = torch.from_numpy(pycocotools(predictions, targets, [1, 3, 10])).float()
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


@pytest.mark.parametrize("flag", ["ignore", "crowd"])
def test_ignored_and_crowd_boxes_take_no_part(flag: str) -> None:
    metric = ProposalRecall()
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    metric.update(
        [{"boxes": boxes[:1], "scores": torch.ones(1)}],
        [{"boxes": boxes, flag: torch.tensor([False, True])}],
    )
    assert metric.compute()["recall_100"] == 1.0


@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("num_proposals", [0, 1, 3])
def test_any_number_of_boxes_is_ordinary(num_objects: int, num_proposals: int) -> None:
    far_apart = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(3)])
    metric = ProposalRecall()
    metric.update(
        [{"boxes": far_apart[:num_proposals], "scores": torch.ones(num_proposals)}],
        [{"boxes": far_apart[:num_objects]}],
    )
    recall = float(metric.compute()["recall_300"])
    if num_objects == 0:
        assert np.isnan(recall)
    else:
        assert recall == pytest.approx(min(num_objects, num_proposals) / num_objects)


def test_default_limits_name_the_results() -> None:
    metric = ProposalRecall()
    metric.update([], [])
    names = set(metric.compute())
    assert names >= {"recall_100", "recall_300", "recall_1000"}


@pytest.mark.parametrize("limits", [(), (0, 100)])
def test_an_impossible_limit_is_an_error(limits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="limits"):
        ProposalRecall(limits=limits)
