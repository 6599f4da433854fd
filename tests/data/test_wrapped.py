"""Somebody else's data set of torchvision's kind, as a data set of this package."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from rcnn.data import DataError, DatasetSource, WrappedDataset

pytestmark = pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")


class Items(Dataset[Any]):
    """Pictures and targets in a list."""

    def __init__(self, *items: tuple[Any, dict[str, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        return self.items[index]


def target(*boxes: tuple[float, ...], labels: object = None, **more: object) -> dict[str, Any]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.ones(len(boxes), dtype=torch.int64) if labels is None else labels,
        **more,
    }


def test_pictures_of_all_kinds_and_0_1_and_3_objects_are_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    box = (10.0, 5.0, 30.0, 25.0)
    dataset = WrappedDataset(
        Items(
            (Image.fromarray(pixels), target(box)),
            (torch.from_numpy(pixels).permute(2, 0, 1), target()),
            (pixels, target(box, box, box, iscrowd=torch.tensor([0, 1, 0]), area=[1, 2, 3])),
        ),
        ["cell"],
    )
    assert dataset.sizes.tolist() == [[40, 60]] * 3
    assert [len(dataset.ground_truth(index)) for index in range(3)] == [1, 0, 3]
    assert dataset.ground_truth(2).crowd.tolist() == [False, True, False]
    assert dataset.ground_truth(2).areas.tolist() == [1, 2, 3]
    for index in range(3):
        assert torch.equal(dataset[index].image, torch.from_numpy(pixels).permute(2, 0, 1))
    torch.testing.assert_close(dataset[0].ground_truth.boxes, torch.tensor([box]))


def test_faults_of_an_item_are_named_by_its_number_and_policy() -> None:
    picture = torch.zeros(3, 40, 60, dtype=torch.uint8)
    items = Items((picture, target((0, 0, 9, 9))), (picture, {"boxes": torch.zeros(1, 4)}))
    with pytest.raises(DataError, match="item 1") as caught:
        WrappedDataset(items, ["cell"])
    assert "labels" in str(caught.value)
    assert len(WrappedDataset(items, ["cell"], on_error="skip")) == 1
    unknown = Items((picture, target((0, 0, 9, 9), labels=[7])))
    with pytest.raises(DataError, match="label 7"):
        WrappedDataset(unknown, ["cell"])
    over = WrappedDataset(Items((picture, target((50.0, 0, 70, 9)))), ["cell"])
    assert over.ground_truth(0).boxes.tolist() == [[50, 0, 60, 9]]
    assert over.problems.counts == {"box over the border": 1}
    with pytest.raises(DataError, match="no usable image"):
        WrappedDataset(Items(), ["cell"])


def test_a_data_set_that_changes_its_pictures_is_refused_by_name() -> None:
    items = Items((torch.zeros(3, 40, 60, dtype=torch.uint8), target()))
    dataset = WrappedDataset(items, ["cell"])
    items.items = ((torch.zeros(3, 41, 60, dtype=torch.uint8), target()),)
    with pytest.raises(DataError, match="item 0"):
        dataset[0]


def test_given_data_sets_are_the_splits() -> None:
    dataset = WrappedDataset(Items((torch.zeros(3, 9, 9, dtype=torch.uint8), target())), ["cell"])
    source = DatasetSource(dataset)
    assert source.has("train")
    assert not source.has("val")
    assert source.dataset("train") is dataset
    with pytest.raises(DataError, match="test"):
        source.dataset("test")
