"""Synthetic pictures."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rcnn.data import ShapesDataset
from rcnn.settings import SettingsError


def coloured_extents(image: torch.Tensor, boxes: torch.Tensor) -> list[list[float]]:
    """The extent of the colour that stands in the middle of each box, over the whole picture."""
    extents = []
    for x1, y1, x2, y2 in boxes.int().tolist():
        colour = image[:, (y1 + y2) // 2, (x1 + x2) // 2]
        rows, columns = np.nonzero((image == colour[:, None, None]).all(0).numpy())
        extents.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return [list(map(float, extent)) for extent in extents]


def test_boxes_are_the_exact_extents_of_the_drawn_pixels() -> None:
    dataset = ShapesDataset(60, seed=3)
    for index in range(60):
        sample = dataset[index]
        boxes = sample.ground_truth.boxes
        assert coloured_extents(sample.image, boxes) == boxes.tolist()


def test_each_kind_covers_its_share_of_the_box() -> None:
    shares: dict[int, list[float]] = {1: [], 2: [], 3: []}
    dataset = ShapesDataset(60, seed=4)
    for index in range(60):
        sample = dataset[index]
        for (x1, y1, x2, y2), label in zip(
            sample.ground_truth.boxes.int().tolist(),
            sample.ground_truth.labels.tolist(),
            strict=True,
        ):
            colour = sample.image[:, (y1 + y2) // 2, (x1 + x2) // 2]
            window = sample.image[:, y1:y2, x1:x2]
            shares[label].append((window == colour[:, None, None]).all(0).float().mean().item())
    for label, expected in ((1, np.pi / 4), (2, 1.0), (3, 0.5)):
        assert np.mean(shares[label]) == pytest.approx(expected, abs=0.03)
        assert len(shares[label]) > 20


def test_picture_depends_on_seed_and_index_only() -> None:
    dataset = ShapesDataset(5, seed=1)
    backwards = {index: dataset[index] for index in reversed(range(5))}
    for index in range(5):
        again = ShapesDataset(9, seed=1)[index]
        assert again.image.equal(backwards[index].image)
        for truth in (backwards[index].ground_truth, dataset.ground_truth(index)):
            assert truth.boxes.equal(again.ground_truth.boxes)
            assert truth.labels.equal(again.ground_truth.labels)
        assert not again.image.equal(ShapesDataset(9, seed=2)[index].image)
    assert not backwards[0].image.equal(backwards[1].image)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_worker_draws_the_same_picture() -> None:
    dataset = ShapesDataset(4, seed=1, size=32)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for index, sample in enumerate(loader):
        torch.testing.assert_close(sample.image, dataset[index].image)


def test_number_of_objects_stays_in_its_limits() -> None:
    dataset = ShapesDataset(200, max_objects=3)
    assert {len(dataset.ground_truth(index)) for index in range(200)} == {1, 2, 3}


def test_share_of_images_without_objects() -> None:
    dataset = ShapesDataset(300, empty_share=0.3)
    empty = sum(len(dataset.ground_truth(index)) == 0 for index in range(300))
    assert 60 < empty < 120
    every = ShapesDataset(1, empty_share=1.0)
    assert every[0].ground_truth.boxes.shape == (0, 4)


def test_shapes_do_not_hide_each_other_in_a_crowd() -> None:
    dataset = ShapesDataset(20, seed=5, max_objects=30)
    for index in range(20):
        sample = dataset[index]
        boxes = sample.ground_truth.boxes
        assert coloured_extents(sample.image, boxes) == boxes.tolist()
    assert max(len(dataset.ground_truth(index)) for index in range(20)) > 8


def test_size_and_names() -> None:
    dataset = ShapesDataset(3, seed=7, size=48)
    sample = dataset[2]
    assert sample.image.shape == (3, 48, 48)
    assert sample.original_size == (48, 48)
    assert sample.image_id == dataset.image_ids[2] == "shapes-7-000002"
    assert dataset.aspect_ratios.tolist() == [1, 1, 1]
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize("names", [("square",), ("square", "circle")])
def test_some_shapes_only_have_the_labels_of_their_order(names: tuple[str, ...]) -> None:
    dataset = ShapesDataset(20, size=64, class_names=names)
    assert dataset.class_names == names
    labels = torch.cat([dataset.ground_truth(index).labels for index in range(20)])
    assert set(labels.tolist()) == set(range(1, len(names) + 1))
    for index in range(20):
        sample = dataset[index]
        for (x1, y1, x2, y2), label in zip(
            sample.ground_truth.boxes.int(), sample.ground_truth.labels, strict=True
        ):
            window = sample.image[:, y1:y2, x1:x2]
            corner_is_covered = window[:, 0, 0].equal(window[:, (y2 - y1) // 2, (x2 - x1) // 2])
            assert corner_is_covered == (names[label - 1] == "square")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"empty_share": 1.5}, r"empty_share=1\.5"),
        ({"class_names": ()}, r"class_names=\(\)"),
        ({"class_names": ("disc",)}, "'disc'.*circle, square, triangle"),
        ({"class_names": ("circle", "circle")}, "class_names="),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ShapesDataset(**{"count": 1, **settings})
