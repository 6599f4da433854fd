"""What all data sets of image files have in common."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.data import DataError, VOCDataset

Write = Callable[..., Path]


def test_index_counts_from_the_end_and_stops_there(
    write_voc: Write, voc_object: Callable[..., str]
) -> None:
    write_voc("a")
    root = write_voc("b", voc_object("dog", (1, 1, 9, 9)))
    dataset = VOCDataset(root, "train", ["dog"])
    assert dataset[-1].image_id == "b"
    assert len(dataset.ground_truth(-1)) == len(dataset[-1].ground_truth) == 1
    assert [dataset[index].image_id for index in range(len(dataset))] == ["a", "b"]
    for read in (dataset.__getitem__, dataset.ground_truth):
        with pytest.raises(IndexError):
            read(2)


def test_reading_does_not_start_before_an_image_is_asked_for(write_voc: Write) -> None:
    root = write_voc("a")
    dataset = VOCDataset(root, "train", ["dog"])
    (root / "JPEGImages" / "a.jpg").unlink()
    assert len(dataset.ground_truth(0)) == 0
    with pytest.raises(DataError, match=r"a\.jpg: missing image"):
        dataset[0]


def test_image_that_changed_its_size_since_is_an_error(
    write_voc: Write, write_image: Write
) -> None:
    root = write_voc("a")
    dataset = VOCDataset(root, "train", ["dog"])
    write_image(root / "JPEGImages" / "a.jpg", (20, 30))
    with pytest.raises(DataError, match="annotated as 60 x 40, the image file has 30 x 20"):
        dataset[0]


def test_aspect_ratio_is_that_of_the_decoded_image(shared_data: Path) -> None:
    dataset = VOCDataset(shared_data / "voc100", "all")
    for index in range(0, 100, 10):
        height, width = dataset[index].image.shape[1:]
        assert dataset.aspect_ratios[index] == pytest.approx(width / height)


def test_data_set_survives_the_way_to_another_process(write_voc: Write) -> None:
    dataset = pickle.loads(pickle.dumps(VOCDataset(write_voc("a"), "train", ["dog"])))
    assert dataset[0].image_id == "a"
