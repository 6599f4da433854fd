"""One annotation file in the format of PASCAL VOC.

XML, one element ``object`` per box, corners 1-based and inclusive:
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 11.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.errors import DataError, Problems
from rcnn.data.index_builder import Corners

# From 1-based inclusive corners to continuous 0-based ones.
TO_CONTINUOUS: Corners = (-1.0, -1.0, 0.0, 0.0)
CORNER_NAMES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = {"0": False, "1": True}


@dataclass(frozen=True)
class VOCObject:
    """One object as written.

    Attributes:
        number: its place in the file, from 1.
        name: of its class.
        corners: 1-based, inclusive.
        difficult: False where the file does not say.
    """

    number: int
    name: str
    corners: Corners
    difficult: bool


def parse(file: Path) -> ET.Element:
    """Return the root element of an annotation file.

    Raises:
        DataError: if the file is missing or no XML.
    """
    try:
        return ET.parse(file).getroot()
    except FileNotFoundError as error:
        raise DataError.about(
            "missing annotation",
            where=str(file),
            found="there is no such file",
            allowed="Every image needs one; an image without objects has one without <object>",
        ) from error
    except (ET.ParseError, UnicodeDecodeError, OSError) as error:
        raise DataError.about(
            "unreadable annotation",
            where=str(file),
            found=str(error),
            allowed="It has to be one complete XML document",
        ) from error


def object_names(root: ET.Element) -> set[str]:
    """Return the class names that occur in an annotation."""
    return {name for item in root.findall("object") if (name := _text(item, "name"))}


def annotated_size(root: ET.Element, file: Path) -> tuple[int, int] | None:
    """Return the (height, width) that an annotation states, None if it states none.

    Raises:
        DataError: if it is no number.
    """
    if root.find("size") is None:
        return None
    written = _text(root, "size/height"), _text(root, "size/width")
    try:
        return int(written[0]), int(written[1])
    except ValueError:
        raise DataError.about(
            "wrong image size",
            where=str(file),
            found=f"<size> has height {written[0]!r} and width {written[1]!r}",
            allowed="Both have to be whole numbers; or leave <size> out",
        ) from None


def read_objects(root: ET.Element, file: Path, problems: Problems) -> list[VOCObject]:
    """Return the objects of an annotation; those that cannot be read go to ``problems``.

    Raises:
        DataError: for an object that cannot be read, if ``problems`` raises.
    """
    objects = []
    for number, item in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_object(item, number, file))
        except DataError as error:
            problems.add(error)
    return objects


def show_corners(corners: Corners) -> str:
    """Return corners as they stand in the file."""
    return " ".join(f"{name}={value:g}" for name, value in zip(CORNER_NAMES, corners, strict=True))


def _object(item: ET.Element, number: int, file: Path) -> VOCObject:
    name = _text(item, "name")
    where = f"{file}, object {number} ({name or 'without name'})"
    if not name:
        raise DataError.about(
            "object without class",
            where=where,
            found=f"<name> is {name!r}",
            allowed="Every object needs the name of its class",
        )
    written = [_text(item, f"bndbox/{corner}") for corner in CORNER_NAMES]
    try:
        x1, y1, x2, y2 = (float(value) for value in written)
    except ValueError:
        raise DataError.about(
            "unreadable coordinate",
            where=where,
            found=" ".join(f"{a}={b!r}" for a, b in zip(CORNER_NAMES, written, strict=True)),
            allowed="<bndbox> needs the four numbers xmin, ymin, xmax, ymax",
        ) from None
    flag = _text(item, "difficult") or "0"
    if flag not in FLAGS:
        raise DataError.about(
            "unreadable flag",
            where=where,
            found=f"<difficult> is {flag!r}",
            allowed="It may be 0, 1 or absent",
        )
    return VOCObject(number, name, (x1, y1, x2, y2), FLAGS[flag])


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
