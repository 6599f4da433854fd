"""Data sets in COCO's JSON format: https://cocodataset.org/#format-data."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.index import Corners, IndexBuilder, checked_size

Entry = Mapping[str, object]
LISTS = ("images", "annotations", "categories")


class COCODataset(IndexedDataset):
    """The images of one COCO annotation file, those without objects among them.

    The classes are the file's categories in the order of their ids. ``iscrowd`` marks crowds;
    ``ignore``, which files made from VOC have, marks difficult objects.

    Args:
        annotations: the JSON file.
        images: folder that its file names are relative to.
        on_error: what to do about a bad image or object: ``raise`` a ``DataError``, or
            ``skip`` it and say so in one ``DataWarning``. COCO's own train2017 has boxes
            without area, so it needs ``skip``.

    Attributes:
        category_ids: COCO category of each of the labels 1..K.

    Raises:
        DataError: for a file that is no COCO JSON or lists no image; for bad images and objects,
            if ``on_error`` is ``raise``.
    """

    def __init__(
        self, annotations: Path | str, images: Path | str, on_error: OnError = "raise"
    ) -> None:
        problems = Problems(on_error)
        path, folder = Path(annotations), Path(images)
        content = _content(path)
        categories = _categories(content["categories"], path)
        reader = _Reader(path, folder, categories, problems)
        for read, entries in (
            (reader.read_image, content["images"]),
            (reader.read_object, content["annotations"]),
        ):
            for number, entry in enumerate(entries, start=1):
                try:
                    read(entry, number)
                except DataError as error:
                    problems.add(error)
        self.category_ids = tuple(categories)
        super().__init__(
            class_names=tuple(categories.values()),
            index=reader.builder.build(),
            image_folder=folder,
            problems=problems,
            where=str(path),
        )


def _content(path: Path) -> dict[str, list[Entry]]:
    """Return the lists of an annotation file.

    Raises:
        DataError: if it is missing, no JSON, or lacks a list.
    """
    collecting = gc.isenabled()
    gc.disable()  # a million entries, none of them garbage, would be searched again and again
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # a JSON error names line and column
        raise DataError(
            f"{path} cannot be read as JSON: {error}. It has to be a COCO annotation file, "
            "which data.train, data.val and data.test name below data.root.",
            "unreadable annotation",
        ) from error
    finally:
        if collecting:
            gc.enable()
    for key in LISTS:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise DataError(
                f"{path} has no list of entries {key!r}. A COCO annotation file for detection "
                f"holds the lists {', '.join(LISTS)}.",
                "unreadable annotation",
            )
    return {key: content[key] for key in LISTS}


def _categories(entries: list[Entry], path: Path) -> dict[int, str]:
    """Return the class name of each category id, in ascending order.

    Raises:
        DataError: for a category without id or name, or with one that was used before.
    """
    names: dict[int, str] = {}
    for number, entry in enumerate(entries, start=1):
        category, name = entry.get("id"), entry.get("name")
        where = f"{path}, category number {number}"
        if not isinstance(category, int) or not isinstance(name, str):
            raise DataError(
                f"{where}: id={category!r} name={name!r}. A category needs a whole number as id "
                "and a text as name.",
                "unreadable annotation",
            )
        if category in names or name in names.values():
            raise DataError(
                f"{where}: id={category} or name={name!r} was used before. Give every category "
                "an id and a name of its own.",
                "unreadable annotation",
            )
        names[category] = name
    return dict(sorted(names.items()))


class _Reader:
    """Brings the entries of a file into an ``IndexBuilder``, one by one."""

    def __init__(
        self, path: Path, folder: Path, categories: Mapping[int, str], problems: Problems
    ) -> None:
        names = tuple(categories.values())
        self.builder = IndexBuilder(names, problems, noun="annotation", show=_show_box)
        self._path = path
        self._annotation = f"{path}, annotation"  # a path takes longer to write than to read
        self._folder = folder
        self._labels = {category: label for label, category in enumerate(categories, start=1)}
        self._images: dict[int | str, int | None] = {}  # None: the image was left out

    def read_image(self, entry: Entry, number: int) -> None:
        """Add an entry of ``images``.

        Raises:
            DataError: for a fault of the image.
        """
        where = f"{self._path}, image number {number}"
        image_id, name, height, width = map(entry.get, ("id", "file_name", "height", "width"))
        if isinstance(image_id, int | str):
            if image_id in self._images:
                raise DataError.about(
                    "image listed twice",
                    where=where,
                    found=f"an earlier image has the id {image_id} as well",
                    allowed="Every image needs an id of its own",
                )
            self._images[image_id] = None
        if not (
            isinstance(image_id, int | str)
            and isinstance(name, str)
            and isinstance(height, int)
            and isinstance(width, int)
        ):
            raise DataError.about(
                "incomplete image entry",
                where=where,
                found=f"id={image_id!r} file_name={name!r} height={height!r} width={width!r}",
                allowed="An image needs an id, a file name, and whole numbers as height and width",
            )
        where = f"{self._path}, image {image_id} ({name})"
        size = checked_size(self._folder / name, (height, width), where)
        self._images[image_id] = self.builder.add_image(str(image_id), name, size, where)

    def read_object(self, entry: Entry, number: int) -> None:
        """Add an entry of ``annotations``, unless its image was left out.

        Raises:
            DataError: for a fault of the entry that can be seen without its image.
        """
        annotation_id = entry.get("id", number)
        where = f"{self._annotation} {annotation_id}"
        image_id, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image_id, int | str) or image_id not in self._images:
            raise DataError.about(
                "unknown image",
                where=where,
                found=f"{image_id=}",
                allowed="It has to be the id of one of the images in the same file",
            )
        image = self._images[image_id]
        if image is None:
            return
        if not isinstance(category, int) or category not in self._labels:
            raise DataError.about(
                "unknown class",
                where=where,
                found=f"category_id={category!r}",
                allowed="It has to be the id of one of the categories in the same file",
            )
        self.builder.add_object(
            image,
            annotation_id if isinstance(annotation_id, int) else number,
            read_corners(entry, where),
            self._labels[category],
            difficult=_flag(entry, "ignore", where),
            crowd=_flag(entry, "iscrowd", where),
            area=_area(entry, where),
        )


NUMBERS = frozenset((int, float))  # not bool, which isinstance takes for an int


def read_corners(entry: Entry, where: str) -> Corners:
    """Return x1, y1, x2, y2 of an entry of ``annotations``.

    Raises:
        DataError: if its ``bbox`` is not four numbers.
    """
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4 and NUMBERS.issuperset(map(type, box)):
        x, y, width, height = map(float, box)
        return x, y, x + width, y + height
    raise DataError.about(
        "unreadable coordinate",
        where=where,
        found=f"bbox={box!r}",
        allowed="bbox has to be a list of four numbers: x, y, width, height",
    )


def _show_box(corners: Corners) -> str:
    """Return corners as they are written in the file."""
    x1, y1, x2, y2 = corners
    return f"bbox=[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] (x, y, width, height)"


def _flag(entry: Entry, key: str, where: str) -> bool:
    value = entry.get(key, 0)
    if value in (0, 1):
        return bool(value)
    raise DataError.about(
        "unreadable flag", where=where, found=f"{key}={value!r}", allowed="It may be 0, 1 or absent"
    )


def _area(entry: Entry, where: str) -> float:
    """Return the area that an entry of ``annotations`` states, NaN if it states none."""
    area = entry.get("area")
    if area is None:
        return math.nan
    if isinstance(area, int | float) and 0 <= area < math.inf:
        return float(area)
    raise DataError.about(
        "unreadable area",
        where=where,
        found=f"area={area!r}",
        allowed="It has to be a number of square pixels; without it the area of the box counts",
    )
