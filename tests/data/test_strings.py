"""Packed strings behave as a sequence of strings."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.index import PackedStrings


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8))
def test_packing_keeps_every_string(strings: list[str]) -> None:
    packed = PackedStrings(strings)
    assert list(packed) == strings
    assert len(packed) == len(strings)


def test_index_and_slice_work_as_on_a_list() -> None:
    packed = PackedStrings(["a", "", "größe", "d"])
    assert packed[2] == "größe"
    assert packed[-1] == "d"
    assert list(packed[1:3]) == ["", "größe"]
    assert "d" in packed
    with pytest.raises(IndexError):
        packed[4]


def test_number_of_python_objects_does_not_grow_with_the_strings() -> None:
    assert len(gc.get_referents(PackedStrings(map(str, range(10_000))))) < 10
