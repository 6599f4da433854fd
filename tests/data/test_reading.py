"""Text in any encoding, files that are data, numbers and flags by their sense."""

from pathlib import Path
from typing import Any

import pytest

from rcnn.data.errors import DataError
from rcnn.data.reading import decode, flag, list_files, read_lines, whole_numbers

WORDS = {
    "gb2312": "猫",
    "gbk": "貓",
    "shift_jis": "犬",
    "big5": "貓",
    "euc-kr": "고양이",
    "windows-1252": "Käfer €",
    "windows-1251": "кошка",
    "iso-8859-1": "Käfer",
    "utf-8": "größe",
}


@pytest.mark.parametrize("encoding", WORDS)
def test_declared_encoding_is_read(encoding: str) -> None:
    assert decode(WORDS[encoding].encode(encoding), encoding) == (WORDS[encoding], True)


@pytest.mark.parametrize(
    ("declared", "actual", "text"),
    [
        ("gb2312", "gb18030", "貓"),  # written by programs that declare the older set
        ("shift_jis", "cp932", "①"),
        ("iso-8859-1", "cp1252", "€"),
    ],
)
def test_characters_that_a_declared_encoding_has_only_in_its_later_form_are_read(
    declared: str, actual: str, text: str
) -> None:
    assert decode(text.encode(actual), declared)[0] == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("declared", ["utf-8", "gbk"])
def test_unicode_is_known_by_its_mark_or_its_zeros_whatever_is_declared(
    encoding: str, declared: str
) -> None:
    assert decode("<größe>".encode(encoding), declared) == ("<größe>", True)


@pytest.mark.parametrize("declared", ["klingon", "hex", "utf-16", "ascii"])
def test_wrong_declaration_falls_back_to_utf8_and_is_told(declared: str) -> None:
    assert decode("<größe>".encode(), declared) == ("<größe>", False)


def test_bytes_without_any_sense_are_marked() -> None:
    assert decode(b"a\xff") == ("a\ufffd", False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_may_come_from_windows(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "train.txt"
    file.write_bytes(end.join(["größe ", "", "b"]).encode(encoding))
    assert read_lines(file) == ["größe", "", "b"]


def test_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"gr\xf6\xdfe")
    with pytest.raises(DataError, match=r"train\.txt.*UTF-8"):
        read_lines(tmp_path / "train.txt")


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "._1.jpg", ".DS_Store", ".git/3.jpg", "__MACOSX/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "above").symlink_to(tmp_path)
    assert list(list_files(tmp_path)) == ["a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize("value", [None, "", 0, 0.0, "0", "0.0", False, "False", "Unspecified"])
def test_flag_that_is_not_set(value: object) -> None:
    assert flag(value) is False
    assert flag(float("nan")) is False  # as tables write what is absent


@pytest.mark.parametrize("value", [1, 1.0, "1", " 1 ", "1.0", True, "true", "TRUE", "yes", 2, "2"])
def test_flag_that_is_set(value: object) -> None:
    assert flag(value) is True


@pytest.mark.parametrize("value", ["maybe", [1], {}])
def test_flag_without_sense_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        flag(value)


@pytest.mark.parametrize("values", [(40, 60), ("40", "60"), (40.0, "60.0"), (" 40 ", 60)])
def test_size_in_any_form(values: tuple[Any, Any]) -> None:
    assert whole_numbers(values) == (40, 60)
    assert whole_numbers((None, "")) is None


@pytest.mark.parametrize(
    "values", [(0, 60), (40.5, 60), ("wide", 60), (None, 60), (-40, 60), (float("nan"), 60)]
)
def test_size_without_sense_is_refused(values: tuple[Any, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        whole_numbers(values)
