"""The names of the classes that a file lists, without what is no class."""

import pytest

from rcnn.data.class_names import checked_class_names
from rcnn.data.errors import DataError, Problems


def test_listed_classes_are_told_apart_from_background_and_repetitions() -> None:
    problems = Problems()
    names = ["__background__", "cat", "", "dog", "cat"]
    assert checked_class_names(names, problems, "classes.txt") == ("cat", "dog")
    assert {row["kind"] for row in problems.summary()} == {
        "class named background",
        "class named twice",
    }
    assert checked_class_names(["background"], problems, "a", {"background"}) == ("background",)
    with pytest.raises(DataError, match=r"classes\.txt: class named twice: 'cat'"):
        checked_class_names(names, Problems("raise"), "classes.txt")
