"""Images and objects in flat arrays, and what is refused on the way in."""

import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.errors import DataError, Problems
from rcnn.data.index import (
    BOX_FAULTS,
    AnnotationIndex,
    IndexBuilder,
    PackedStrings,
    box_faults,
    checked_size,
    clipped,
)
from rcnn.data.voc import show_corners

Write = Callable[..., Path]
SIZE = np.array([[40, 60]], dtype=np.int32)  # height, width


# --- strings ----------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8))
def test_packing_keeps_every_string(strings: list[str]) -> None:
    packed = PackedStrings(strings)
    assert list(packed) == strings
    assert len(packed) == len(strings)


def test_index_and_slice_of_packed_strings_work_as_on_a_list() -> None:
    packed = PackedStrings(["a", "", "größe", "d"])
    assert packed[2] == "größe"
    assert packed[-1] == "d"
    assert list(packed[1:3]) == ["", "größe"]
    assert "d" in packed
    with pytest.raises(IndexError):
        packed[4]


# --- the index --------------------------------------------------------------------------------


def builder(
    problems: Problems | None = None, names: tuple[str, ...] = ("cat", "dog")
) -> IndexBuilder:
    return IndexBuilder(names, problems or Problems(), noun="object", show=show_corners)


def of_one_image(*corners: tuple[float, ...], problems: Problems | None = None) -> AnnotationIndex:
    """An image of 40 x 60 with dogs, numbered from 1."""
    building = builder(problems)
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    for number, values in enumerate(corners, start=1):
        x1, y1, x2, y2 = map(float, values)
        building.add_object(image, number, (x1, y1, x2, y2), 2)
    return building.build()


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("names", [("dog",), ("cat", "dog")])
def test_ground_truth_is_what_was_added(count: int, names: tuple[str, ...]) -> None:
    building = builder(names=names)
    building.add_image("before", "before.jpg", (40, 60), "before.xml")
    image = building.add_image("a", "a.jpg", (40, 60), "a.xml")
    after = building.add_image("after", "after.jpg", (40, 60), "after.xml")
    building.add_object(after, 1, (0.0, 0.0, 1.0, 1.0), 1)
    for number in range(count):
        corners = (float(number), 2.0, 9.0, 12.0)
        building.add_object(image, number, corners, len(names), difficult=number == 1)
    ground_truth = building.build().ground_truth(image)
    assert ground_truth.boxes.shape == (count, 4)
    assert ground_truth.boxes.tolist() == [[number, 2, 9, 12] for number in range(count)]
    assert ground_truth.labels.tolist() == [len(names)] * count
    assert ground_truth.labels.dtype == torch.int64
    assert ground_truth.difficult.tolist() == [number == 1 for number in range(count)]
    assert not ground_truth.crowd.any()
    assert ground_truth.areas.tolist() == [(9 - number) * 10 for number in range(count)]


def test_objects_may_come_in_any_order_and_keep_it_within_their_image() -> None:
    building = builder()
    images = [building.add_image(name, name, (40, 60), name) for name in "abc"]
    for number, image in enumerate((2, 0, 2, 0, 2)):
        corners = (float(number), 0.0, 10.0, 10.0)
        building.add_object(images[image], number, corners, 1, area=float(number))
    index = building.build()
    assert [index.ground_truth(image).areas.tolist() for image in images] == [[1, 3], [], [0, 2, 4]]


def test_changing_a_ground_truth_does_not_change_the_index() -> None:
    index = of_one_image((0, 0, 9, 9))
    index.ground_truth(0).boxes.zero_()
    assert index.ground_truth(0).boxes.sum() > 0


def test_bad_box_is_named_by_file_object_class_and_value() -> None:
    with pytest.raises(DataError, match=r"a\.xml, object 2 \(dog\): box without.*xmin=5 ymin=5"):
        of_one_image((0, 0, 9, 9), (5, 5, 5, 9))


def test_bad_box_is_left_out_and_its_neighbours_stay() -> None:
    problems = Problems("skip")
    index = of_one_image((1, 0, 10, 10), (100, 0, 10, 10), (3, 0, 10, 10), problems=problems)
    assert index.ground_truth(0).boxes[:, 0].tolist() == [1, 3]
    assert problems.counts == {"inverted box": 1}


def test_box_one_pixel_over_the_border_is_clipped() -> None:
    index = of_one_image((-0.5, -1.0, 60.25, 41.0))
    assert index.ground_truth(0).boxes.tolist() == [[0, 0, 60, 40]]
    assert index.aspect_ratios.tolist() == [1.5]


def test_index_holds_no_python_object_per_image_or_box() -> None:
    building = builder()
    for number in range(20_000):
        image = building.add_image(f"image{number:06d}", f"{number:06d}.jpg", (40, 60), "a.xml")
        for k in range(5):
            building.add_object(image, k, (0.0, 0.0, k + 1.0, 10.0), 1)
    gc.collect()
    before = len(gc.get_objects())
    index = building.build()
    gc.collect()
    assert len(gc.get_objects()) - before < 200
    # 100,000 boxes of 16 + 2 + 1 + 1 + 4 bytes, 20,000 images of 8 + 8 + 8 + 8 bytes and names
    assert len(pickle.dumps(index)) < 100_000 * 24 + 20_000 * 64


# --- faults of boxes --------------------------------------------------------------------------


def fault(*corners: float, shift: tuple[float, ...] = (0, 0, 0, 0)) -> str:
    faults = box_faults(np.array([corners], dtype=np.float64), np.array(shift, dtype=float), SIZE)
    return BOX_FAULTS[faults[0]]


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0, 0, 60, 40), "sound box"),
        ((10, 10, 10.5, 10.25), "sound box"),
        ((-1, -1, 61, 41), "sound box"),
        ((-1.5, 0, 60, 40), "box outside the image"),
        ((0, 0, 61.5, 40), "box outside the image"),
        ((0, 0, 60, 41.5), "box outside the image"),
        ((70, 10, 80, 20), "box outside the image"),
        ((10, 10, 10, 20), "box without area"),
        ((10, 10, 20, 10), "box without area"),
        ((60, 10, 61, 20), "box without area"),
        ((20, 10, 10, 20), "inverted box"),
        ((10, 20, 20, 10), "inverted box"),
        ((65535, 0, 10, 10), "wrapped-around coordinate"),
        ((0, 65534, 10, 10), "wrapped-around coordinate"),
        ((float("nan"), 0, 10, 10), "coordinate that is no finite number"),
        ((0, 0, float("inf"), 10), "coordinate that is no finite number"),
    ],
)
def test_box_is_judged_by_its_first_fault(corners: tuple[float, ...], expected: str) -> None:
    assert fault(*corners) == expected


def test_area_is_judged_on_the_corners_as_written_and_the_border_on_continuous_ones() -> None:
    inclusive = (-1, -1, 0, 0)
    assert fault(9, 9, 9, 9, shift=inclusive) == "box without area"
    assert fault(9, 9, 10, 10, shift=inclusive) == "sound box"
    assert fault(0, 0, 60, 40, shift=inclusive) == "sound box"
    assert fault(-1, 0, 60, 40, shift=inclusive) == "box outside the image"


def test_large_coordinate_is_ordinary_in_a_large_image() -> None:
    size = np.array([[10, 70_000]], dtype=np.int32)
    assert box_faults(np.array([[65_530.0, 5, 65_540, 9]]), np.zeros(4), size).tolist() == [0]


def test_no_boxes_have_no_faults() -> None:
    assert box_faults(np.zeros((0, 4)), np.zeros(4), SIZE[:0]).shape == (0,)


@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4))
def test_every_sound_box_is_a_box_inside_its_image_after_clipping(corners: list[float]) -> None:
    if fault(*corners) != "sound box":
        return
    x1, y1, x2, y2 = clipped(np.array([corners]), SIZE)[0].tolist()
    assert 0 <= x1 < x2 <= 60
    assert 0 <= y1 < y2 <= 40
    assert np.abs(np.array([x1, y1, x2, y2]) - corners).max() <= 1


# --- faults of files --------------------------------------------------------------------------


def test_size_of_the_file_counts_where_none_is_annotated(
    write_image: Write, tmp_path: Path
) -> None:
    assert checked_size(write_image(tmp_path / "a.jpg", (4, 6)), None, "a.xml") == (4, 6)


def test_wrong_size_names_annotation_image_and_both_sizes(
    write_image: Write, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6))
    with pytest.raises(DataError, match=r"a\.xml, .*a\.jpg: .* 8 x 4.* 6 x 4"):
        checked_size(file, (4, 8), "a.xml")


def test_cut_off_jpeg_is_refused_and_bytes_behind_the_end_are_not(
    write_image: Write, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg")
    content = file.read_bytes()
    file.write_bytes(content + b"maker's notes")
    assert checked_size(file, (40, 60), "a.xml") == (40, 60)
    file.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"a\.jpg: unreadable image"):
        checked_size(file, (40, 60), "a.xml")
