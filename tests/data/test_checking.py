"""What is refused at the door."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.errors import DataError
from rcnn.data.index import BOX_FAULTS, box_faults, checked_size, clipped

SIZE = np.array([[40, 60]], dtype=np.int32)  # height, width


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


def test_area_is_judged_on_the_corners_as_written() -> None:
    assert fault(9, 9, 9, 9, shift=(-1, -1, 0, 0)) == "box without area"
    assert fault(9, 9, 10, 10, shift=(-1, -1, 0, 0)) == "sound box"


def test_border_is_judged_on_continuous_boxes() -> None:
    assert fault(0, 0, 60, 40, shift=(-1, -1, 0, 0)) == "sound box"
    assert fault(-1, 0, 60, 40, shift=(-1, -1, 0, 0)) == "box outside the image"


def test_large_coordinate_is_ordinary_in_a_large_image() -> None:
    faults = box_faults(
        np.array([[65_530.0, 5, 65_540, 9]]), np.zeros(4), np.array([[10, 70_000]], dtype=np.int32)
    )
    assert faults.tolist() == [0]


def test_no_boxes_have_no_faults() -> None:
    none = np.zeros((0, 4))
    assert box_faults(none, np.zeros(4), np.zeros((0, 2), dtype=np.int32)).shape == (0,)


@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4))
def test_every_sound_box_is_a_box_inside_its_image_after_clipping(corners: list[float]) -> None:
    if fault(*corners) != "sound box":
        return
    x1, y1, x2, y2 = clipped(np.array([corners]), SIZE)[0].tolist()
    assert 0 <= x1 < x2 <= 60
    assert 0 <= y1 < y2 <= 40
    assert np.abs(np.array([x1, y1, x2, y2]) - corners).max() <= 1


def test_size_of_the_file_counts_where_none_is_annotated(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    assert checked_size(write_image(tmp_path / "a.jpg", (4, 6)), None, "a.xml") == (4, 6)


def test_wrong_size_names_annotation_image_and_both_sizes(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6))
    with pytest.raises(DataError, match=r"a\.xml, .*a\.jpg: .*annotated as 8 x 4.* has 6 x 4"):
        checked_size(file, (4, 8), "a.xml")


def test_cut_off_jpeg_is_found_without_being_asked_for(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.jpg: unreadable image"):
        checked_size(file, (40, 60), "a.xml")


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg")
    file.write_bytes(file.read_bytes() + b"maker's notes")
    assert checked_size(file, (40, 60), "a.xml") == (40, 60)
