"""Strings and boxes in flat arrays, and the checks of boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.index import BOX_FAULTS, PackedStrings, box_faults, clipped

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
        ((-1.5, 0, 60, 40), "box over the border"),
        ((0, 0, 61.5, 40), "box over the border"),
        ((0, 0, 60, 41.5), "box over the border"),
        ((70, 10, 80, 20), "box outside the image"),
        ((-9, 10, 0, 20), "box outside the image"),
        ((50, 10, 50 + 1e-9, 20), "box without area"),
        ((10, 10, 10, 20), "box without area"),
        ((10, 10, 20, 10), "box without area"),
        ((60, 10, 61, 20), "box outside the image"),
        ((20, 10, 10, 20), "inverted box"),
        ((10, 20, 20, 10), "inverted box"),
        ((65535, 0, 10, 10), "wrapped-around coordinate"),
        ((0, 65534, 10, 10), "wrapped-around coordinate"),
        ((float("nan"), 0, 10, 10), "coordinate that is no finite number"),
        ((0, 0, float("inf"), 10), "coordinate that is no finite number"),
        ((float("inf"), 0, float("inf"), 10), "coordinate that is no finite number"),
    ],
)
def test_box_is_judged_by_its_first_fault(corners: tuple[float, ...], expected: str) -> None:
    assert fault(*corners) == expected


def test_area_is_judged_on_the_corners_as_written_and_the_border_on_continuous_ones() -> None:
    inclusive = (-1, -1, 0, 0)
    assert fault(9, 9, 9, 9, shift=inclusive) == "box without area"
    assert fault(9, 9, 10, 10, shift=inclusive) == "sound box"
    assert fault(0, 0, 60, 40, shift=inclusive) == "sound box"
    assert fault(-1, 0, 60, 40, shift=inclusive) == "box over the border"


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
