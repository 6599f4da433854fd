"""Files are written whole or not at all."""

import json
from pathlib import Path

import pytest

from rcnn.files import whole_file, write_json


def test_a_file_that_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_text("half of it")
            assert partial.suffix == ".txt"  # writers choose their format by it
            assert path.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_finished_file_takes_the_name_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    for text in ("first", "second"):
        with whole_file(str(path)) as partial:
            partial.write_text(text)
        assert list(path.parent.iterdir()) == [path]
        assert path.read_text() == text


def test_a_file_that_was_never_begun_is_an_error_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    nan, infinity = float("nan"), float("inf")
    value = {"map": nan, "by class": ({"cat": 0.5, "dog": infinity}, [-infinity, 3, "ä", True])}
    write_json(tmp_path / "a.json", value)
    expected = {"map": None, "by class": [{"cat": 0.5, "dog": None}, [None, 3, "ä", True]]}
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == expected


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text()) == {"a": 1}
