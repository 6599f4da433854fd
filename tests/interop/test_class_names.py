"""Names of classes that a file does not bring."""

import pytest

from rcnn.interop import InteropError
from rcnn.interop.class_names import coco_names, name_classes


def test_coco_has_a_name_for_each_of_ninety_ids_and_none_twice() -> None:
    names = coco_names()
    assert len(names) == len(set(names)) == 90
    assert (names[0], names[89]) == ("person", "toothbrush")
    # ids that COCO does not use
    unused = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert [name for name in names if name.startswith("N/A")] == [f"N/A {i}" for i in unused]
    assert names[83 - 1] == "N/A 83"


def test_ninety_one_rows_are_taken_for_coco_and_others_are_numbered() -> None:
    assert name_classes(None, rows=91) == coco_names()
    assert name_classes(None, rows=4) == ("class 1", "class 2", "class 3")


def test_given_names_are_kept_in_order() -> None:
    assert name_classes(["b", "a"], rows=3) == ("b", "a")


@pytest.mark.parametrize("given", [["background", "a", "b"], ["a"], "ab", []])
def test_a_wrong_number_of_names_is_refused(given: list[str]) -> None:
    with pytest.raises(InteropError, match=r"class_names=.* 3 rows.* 2 names; background"):
        name_classes(given, rows=3)
