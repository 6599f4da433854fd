"""Several data sets as one."""

import pytest
import torch

from rcnn.data import DataError, JoinedDataset, ShapesDataset


def test_images_follow_each_other_with_unique_ids() -> None:
    parts = {"a": ShapesDataset(2, size=32), "b": ShapesDataset(3, size=40)}
    joined = JoinedDataset(parts)
    assert len(joined) == 5
    assert len(joined.aspect_ratios) == 5
    assert len(set(joined.image_ids)) == 5
    for index, (name, place) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]):
        sample, original = joined[index], parts[name][place]
        torch.testing.assert_close(sample.image, original.image)
        torch.testing.assert_close(joined.ground_truth(index).boxes, parts[name].ground_truth(place).boxes)
        assert sample.image_id == joined.image_ids[index] == f"{name}/{original.image_id}"
    assert joined[-1].image_id == joined[4].image_id
    with pytest.raises(IndexError):
        joined[5]


def test_what_the_parts_left_out_is_summed_up() -> None:
    parts = {"a": ShapesDataset(1, size=32), "b": ShapesDataset(1, size=32)}
    for part in parts.values():
        part.problems.counts["bad box"] += 1
        part.problems.messages.append("a bad box")
    joined = JoinedDataset(parts)
    assert joined.problems.counts == {"bad box": 2}
    assert joined.problems.messages == ["a bad box"] * 2


def test_different_classes_are_refused_by_name() -> None:
    other = ShapesDataset(1, size=32)
    other.class_names = ("circle", "disc", "triangle")
    with pytest.raises(DataError, match=r"x and y: different classes: .*square.*disc"):
        JoinedDataset({"x": ShapesDataset(1, size=32), "y": other})


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(DataError, match="no data set"):
        JoinedDataset({})
