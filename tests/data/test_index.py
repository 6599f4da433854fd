"""Annotations in flat arrays."""

import gc
import pickle

import numpy as np
import pytest
import torch

from rcnn.data.errors import DataError, Problems
from rcnn.data.index import AnnotationIndex, IndexBuilder
from rcnn.data.voc import show_corners


def builder(problems: Problems | None = None) -> IndexBuilder:
    return IndexBuilder(("cat", "dog"), problems or Problems(), noun="object", show=show_corners)


def synthetic(images: int) -> AnnotationIndex:
    building = builder()
    for number in range(images):
        image = building.add_image(f"image{number:06d}", f"{number:06d}.jpg", (40, 60), "a.xml")
        for place in range(5):
            building.add_object(image, place, (0.0, 0.0, place + 1.0, 10.0), 1)
    return building.build()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_truth_is_what_was_added(count: int) -> None:
    building = builder()
    building.add_image("before", "before.jpg", (40, 60), "before.xml")
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    after = building.add_image("after", "after.jpg", (40, 60), "after.xml")
    building.add_object(after, 1, (0.0, 0.0, 1.0, 1.0), 1)
    for number in range(count):
        building.add_object(
            image, number, (float(number), 2.0, 9.0, 12.0), 2, difficult=number == 1
        )
    ground_truth = building.build().ground_truth(image)
    assert len(ground_truth) == count
    assert ground_truth.boxes.shape == (count, 4)
    assert ground_truth.boxes.tolist() == [[number, 2, 9, 12] for number in range(count)]
    assert ground_truth.labels.tolist() == [2] * count
    assert ground_truth.labels.dtype == torch.int64
    assert ground_truth.difficult.tolist() == [number == 1 for number in range(count)]
    assert not ground_truth.crowd.any()
    assert ground_truth.areas.tolist() == [(9 - number) * 10 for number in range(count)]


def test_objects_may_come_in_any_order_and_keep_it_within_their_image() -> None:
    building = builder()
    images = [building.add_image(name, name, (40, 60), name) for name in "abc"]
    for number, image in enumerate((2, 0, 2, 0, 2)):
        building.add_object(
            images[image], number, (float(number), 0.0, 10.0, 10.0), 1, area=float(number)
        )
    index = building.build()
    assert index.ground_truth(0).areas.tolist() == [1, 3]
    assert index.ground_truth(1).areas.tolist() == []
    assert index.ground_truth(2).areas.tolist() == [0, 2, 4]


def test_changing_a_truth_does_not_change_the_index() -> None:
    index = synthetic(2)
    index.ground_truth(0).boxes.zero_()
    assert index.ground_truth(0).boxes.sum() > 0


def test_bad_box_is_named_by_file_object_class_and_value() -> None:
    building = builder()
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    building.add_object(image, 3, (5.0, 5.0, 5.0, 9.0), 2)
    with pytest.raises(
        DataError,
        match=r"a\.xml, object 3 \(dog\): box without area: xmin=5 ymin=5 xmax=5 .*60 x 40",
    ):
        building.build()


def test_bad_box_is_left_out_and_its_neighbours_stay() -> None:
    problems = Problems("skip")
    building = builder(problems)
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    for number, x1 in enumerate((1.0, 100.0, 3.0), start=1):
        building.add_object(image, number, (x1, 0.0, 10.0, 10.0), number % 2 + 1)
    ground_truth = building.build().ground_truth(image)
    assert ground_truth.boxes[:, 0].tolist() == [1, 3]
    assert ground_truth.labels.tolist() == [2, 2]
    assert problems.counts == {"inverted box": 1}


def test_box_one_pixel_over_the_border_is_clipped() -> None:
    building = builder()
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    building.add_object(image, 1, (-0.5, -1.0, 60.25, 41.0), 1)
    assert building.build().ground_truth(image).boxes.tolist() == [[0, 0, 60, 40]]


def test_aspect_ratio_is_width_over_height() -> None:
    building = builder()
    building.add_image("a", "a.jpg", (40, 60), "a.xml")
    assert building.build().aspect_ratios.tolist() == [1.5]


def test_index_holds_no_python_object_per_image_or_box() -> None:
    gc.collect()
    before = len(gc.get_objects())
    index = synthetic(20_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 200
    assert all(
        isinstance(value, np.ndarray) or len(vars(value)) == 2 for value in vars(index).values()
    )
    # 100,000 boxes of 16 + 2 + 1 + 1 + 4 bytes, 20,000 images of 8 + 8 + 8 + 8 bytes and names
    assert len(pickle.dumps(index)) < 100_000 * 24 + 20_000 * 64
