"""Random splits: every image once, classes spread, scenes together, the same for the same seed."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from rcnn.data.dataset import SubsetDataset
from rcnn.data.errors import DataError
from rcnn.data.random_split import random_split
from rcnn.data.shapes import ShapesDataset

SHARES = {"val": 0.2, "test": 0.2}


class Repeated(ShapesDataset):
    """Shapes of which every picture comes twice, the second time a little darker."""

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        import dataclasses

        sample = super().__getitem__(index // 2 * 2)
        image: Tensor = sample.image
        darker = (image.float() * 0.95).to(torch.uint8) if index % 2 else image
        return dataclasses.replace(sample, image=darker)


def test_every_image_is_in_one_split_and_the_shares_are_kept() -> None:
    dataset = ShapesDataset(100, seed=0, size=64)
    found = random_split(dataset, SHARES)
    assert sorted(index for indices in found.values() for index in indices) == list(range(100))
    assert {name: len(indices) for name, indices in found.items()} == {
        "train": pytest.approx(60, abs=5),
        "val": pytest.approx(20, abs=5),
        "test": pytest.approx(20, abs=5),
    }


def test_every_class_is_spread_as_the_shares_say() -> None:
    dataset = ShapesDataset(200, seed=1, size=64)
    counts = {
        name: Counter(
            label for index in indices for label in dataset.ground_truth(index).labels.tolist()
        )
        for name, indices in random_split(dataset, SHARES).items()
    }
    for label in (1, 2, 3):
        total = sum(count[label] for count in counts.values())
        assert counts["val"][label] / total == pytest.approx(0.2, abs=0.04)
        assert counts["test"][label] / total == pytest.approx(0.2, abs=0.04)


def test_pictures_that_are_nearly_the_same_stay_together() -> None:
    found = random_split(Repeated(20, seed=0, size=64), SHARES)
    split_of = {index: name for name, indices in found.items() for index in indices}
    assert all(split_of[index] == split_of[index + 1] for index in range(0, 20, 2))


def test_a_seed_gives_the_same_splits_and_another_seed_others() -> None:
    dataset = ShapesDataset(40, seed=0, size=64)
    assert random_split(dataset, SHARES) == random_split(dataset, SHARES)
    assert random_split(dataset, SHARES) != random_split(dataset, SHARES, seed=1)


def test_of_three_images_each_split_gets_one_and_two_are_too_few() -> None:
    found = random_split(ShapesDataset(3, seed=0, size=64), SHARES)
    assert [len(indices) for indices in found.values()] == [1, 1, 1]
    with pytest.raises(DataError, match="2 different scenes"):
        random_split(ShapesDataset(2, seed=0, size=64), SHARES)


@pytest.mark.parametrize("shares", [{}, {"val": 1.0}, {"val": 0.5, "test": 0.5}, {"val": -0.1}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="below 1"):
        random_split(ShapesDataset(4, seed=0, size=64), shares)


def test_a_subset_is_a_data_set_of_its_images() -> None:
    dataset = ShapesDataset(6, seed=0, size=64)
    subset = SubsetDataset(dataset, [4, 1])
    assert list(subset.image_ids) == [dataset.image_ids[4], dataset.image_ids[1]]
    assert len(subset) == 2
    assert subset.sizes.tolist() == [[64, 64]] * 2
    assert torch.equal(subset[0].image, dataset[4].image)
    assert torch.equal(subset.ground_truth(1).boxes, dataset.ground_truth(1).boxes)
