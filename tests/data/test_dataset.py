"""Data sets of image files, and several data sets as one."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.data import DataError, JoinedDataset, ShapesDataset, VOCDataset

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


def test_image_that_is_gone_or_changed_since_is_an_error_when_it_is_read(
    write_voc: Write, write_image: Write
) -> None:
    root = write_voc("a")
    dataset = VOCDataset(root, "train", ["dog"])
    write_image(root / "JPEGImages" / "a.jpg", (20, 30))
    with pytest.raises(DataError, match=r"a\.jpg: wrong image size: .* 60 x 40, .* 30 x 20"):
        dataset[0]
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: missing image"):
        dataset[0]
    assert len(dataset.ground_truth(0)) == 0


def test_aspect_ratio_is_that_of_the_decoded_image(shared_data: Path) -> None:
    dataset = VOCDataset(shared_data / "voc100", "all")
    for index in range(0, 100, 10):
        height, width = dataset[index].image.shape[1:]
        assert dataset.aspect_ratios[index] == pytest.approx(width / height)


def test_data_set_survives_the_way_to_another_process(write_voc: Write) -> None:
    dataset = pickle.loads(pickle.dumps(VOCDataset(write_voc("a"), "train", ["dog"])))
    assert dataset[0].image_id == "a"


@pytest.mark.parametrize("names", [("square",), ("circle", "square", "triangle")])
def test_joined_images_follow_each_other_with_unique_ids(names: tuple[str, ...]) -> None:
    parts = {
        name: ShapesDataset(count, size=size, class_names=names)
        for name, count, size in (("a", 2, 32), ("b", 3, 40))
    }
    joined = JoinedDataset(parts)
    assert joined.class_names == names
    assert len(joined) == len(joined.aspect_ratios) == len(joined.sizes) == 5
    assert len(set(joined.image_ids)) == 5
    for index, (name, number) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]):
        sample, original = joined[index], parts[name][number]
        assert sample.image_id == joined.image_ids[index] == f"{name}/{original.image_id}"
        assert sample.image.equal(original.image)
        assert sample.original_size == tuple(joined.sizes[index])
        for truth in (sample.ground_truth, joined.ground_truth(index)):
            torch.testing.assert_close(truth.boxes, original.ground_truth.boxes)
            assert truth.labels.equal(original.ground_truth.labels)
    assert joined[-1].image_id == joined[4].image_id
    with pytest.raises(IndexError):
        joined[5]


def test_what_was_found_in_the_parts_is_summed_up() -> None:
    parts = {name: ShapesDataset(1, size=32) for name in "ab"}
    for part in parts.values():
        part.problems.settle("bad box", where="a.xml", found="xmin=9", made="clipped")
    (row,) = JoinedDataset(parts).problems.summary()
    assert (row["kind"], row["count"], len(row["cases"])) == ("bad box", 2, 2)


def test_different_classes_are_refused_by_name_and_nothing_cannot_be_joined() -> None:
    one = ShapesDataset(1, size=32)
    other = ShapesDataset(1, size=32, class_names=["square", "circle"])
    with pytest.raises(DataError, match=r"x and y: different classes: .*triangle.*square"):
        JoinedDataset({"x": one, "y": other})
    with pytest.raises(DataError, match="no data set"):
        JoinedDataset({})
