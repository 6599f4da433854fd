"""How annotation files are read: their text in any encoding, numbers and flags by their sense."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from rcnn.data.errors import DataError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# Programs declare an encoding and write the characters of the one that has grown out of it.
GROWN = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
}


def decode(content: bytes, declared: str = "utf-8") -> tuple[str, bool]:
    """Return the text of a file, and whether its encoding was as declared.

    A byte order mark goes before the declaration. Where the declaration is wrong or unknown, UTF-8
    is tried; what is no UTF-8 either becomes U+FFFD, one a byte.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding), True
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be"), True
    try:
        name = codecs.lookup(declared).name
        # A declaration that reads as ASCII is not part of a text in UTF-16: .NET writes such.
        if not name.startswith(("utf-16", "utf-32")):
            for encoding in (GROWN.get(name, name), name):
                with suppress(UnicodeDecodeError):
                    return content.decode(encoding), True
    except LookupError:  # an unknown name, or that of no text encoding
        pass
    return content.decode("utf-8", errors="replace"), False


def read_lines(file: Path) -> list[str]:
    """Return the stripped lines of a list in UTF-8 or UTF-16, empty ones among them.

    Raises:
        DataError: the list is in another encoding.
    """
    text, sound = decode(file.read_bytes())
    if not sound:
        raise DataError.about(
            "unknown encoding",
            where=str(file),
            found="it is no text in UTF-8 or UTF-16",
            allowed="Save it as UTF-8",
        )
    return [line.strip() for line in text.lstrip("\ufeff").splitlines()]


def list_files(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it, without those that systems hide.

    Hidden are names with a leading dot (``.DS_Store``, ``._a.xml``) and ``__MACOSX``.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        relative = PurePosixPath(Path(parent).relative_to(folder))
        yield from (str(relative / name) for name in sorted(names) if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


WORDS = {
    **dict.fromkeys(("", "false", "no", "unspecified", "none", "null"), False),
    **dict.fromkeys(("true", "yes"), True),
}


def flag(value: object) -> bool:
    """Return what a flag means: numbers but 0 and NaN are True, so is "yes"; absent is False.

    Raises:
        ValueError: it is another text.
        TypeError: it is a list or an object.
    """
    if value is None or value == 0 or value == 1:
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else value
    if word in WORDS:
        return WORDS[word]
    number = float(word)  # type: ignore[arg-type]
    return number != 0 and not math.isnan(number)


def whole_numbers(values: tuple[object, object]) -> tuple[int, int] | None:
    """Return a written (height, width), None if both are absent.

    Raises:
        ValueError: one is no positive whole number.
    """
    height, width = values
    if type(height) is int and type(width) is int and height > 0 < width:
        return height, width
    if all(value is None or value == "" for value in values):
        return None
    height, width = (float(value) for value in values)  # type: ignore[arg-type]
    if height >= 1 <= width and height.is_integer() and width.is_integer():
        return int(height), int(width)
    raise ValueError
