"""A data set as a DataLoader's workers see it."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    DataError,
    DataWarning,
    DetectionBatch,
    EvaluationTransform,
    Pick,
    ShapesDataset,
    TrainingTransform,
    TransformedDataset,
    VOCDataset,
    collate,
)

TRANSFORM = TrainingTransform(0.5, (32, 48, 64), 100)


def loaded(workers: int, epochs: int) -> list[DetectionBatch]:
    """The batches of some epochs from one loader."""
    dataset = ShapesDataset(7, size=32)
    loader = DataLoader(
        TransformedDataset(dataset, TRANSFORM),
        batch_sampler=AspectGroupedBatchSampler(dataset.aspect_ratios, 2, seed=0),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=partial(collate, multiple=16),
    )
    return [batch for _ in range(epochs) for batch in loader]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_persistent_workers_give_what_the_main_process_gives() -> None:
    alone, shared = loaded(0, 2), loaded(2, 2)
    assert len(alone) == len(shared) == 8
    for one, other in zip(alone, shared, strict=True):
        assert one.image_ids == other.image_ids
        torch.testing.assert_close(one.images.pixels, other.images.pixels)
        torch.testing.assert_close(one.targets.boxes, other.targets.boxes)


def test_augmentation_of_an_image_changes_with_the_epoch() -> None:
    dataset = TransformedDataset(ShapesDataset(1, size=32), TRANSFORM)
    sampler = AspectGroupedBatchSampler(dataset.dataset.aspect_ratios, 1, seed=0)
    drawn = set()
    for _ in range(30):
        sample = dataset[next(iter(sampler))[0]]
        drawn.add((sample.image.shape[1], sample.ground_truth.boxes[0, 0].item()))
    assert len(drawn) == 6


def test_same_pick_gives_the_same_sample() -> None:
    dataset = TransformedDataset(ShapesDataset(3, size=32), TRANSFORM)
    assert len(dataset) == 3
    for seed in range(5):
        one, other = dataset[Pick(1, seed)], dataset[Pick(1, seed)]
        torch.testing.assert_close(one.image, other.image)
        torch.testing.assert_close(one.ground_truth.boxes, other.ground_truth.boxes)


@pytest.fixture
def broken(write_voc: Callable[..., Path]) -> VOCDataset:
    """Images a, b, c, of which b and c are gone after the set was opened."""
    for image_id in "ab":
        write_voc(image_id)
    root = write_voc("c")
    dataset = VOCDataset(root, "train", ["dog"])
    for image_id in "bc":
        (root / "JPEGImages" / f"{image_id}.jpg").unlink()
    return dataset


def test_unreadable_image_is_an_error_unless_it_may_be_substituted(broken: VOCDataset) -> None:
    dataset = TransformedDataset(broken, EvaluationTransform(40, 100))
    with pytest.raises(DataError, match=r"b\.jpg"):
        dataset[Pick(1, 0)]


def test_unreadable_image_is_replaced_by_the_next_readable_with_a_warning(
    broken: VOCDataset,
) -> None:
    dataset = TransformedDataset(broken, EvaluationTransform(40, 100), substitute=True)
    with pytest.warns(DataWarning) as caught:
        assert dataset[Pick(1, 0)].image_id == "a"
    assert [name for name in "abc" for one in caught if f"{name}.jpg" in str(one.message)] == [
        "b",
        "c",
    ]


def test_set_without_any_readable_image_is_an_error(broken: VOCDataset) -> None:
    (broken.image_folder / "a.jpg").unlink()
    dataset = TransformedDataset(broken, EvaluationTransform(40, 100), substitute=True)
    with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match="None of the 3"):
        dataset[Pick(1, 0)]
