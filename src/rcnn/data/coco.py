"""One annotation file in the JSON format of COCO: https://cocodataset.org/#format-data."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.index import Corners, IndexBuilder, checked_size

Entry = Mapping[str, object]
LISTS = ("images", "annotations", "categories")
NUMBERS = frozenset((int, float))


@dataclass(frozen=True)
class COCOFile:
    """The lists of an annotation file, and its classes in the order of their ids.

    Attributes:
        path: the file.
        images: its entries as written.
        annotations: likewise.
        category_ids: in ascending order; the labels 1..K stand for them.
        class_names: of those categories.
    """

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> COCOFile:
        """Read a file.

        Raises:
            DataError: if it is missing, no JSON, lacks a list, or has no sound categories.
        """
        try:
            content = _content(path)
        except (OSError, ValueError) as error:  # a JSON error names line and column
            raise DataError(
                f"{path} cannot be read as JSON: {error}. It has to be a COCO annotation file, "
                "which data.train, data.val and data.test name below data.root.",
                "unreadable annotation",
            ) from error
        for key in LISTS:
            found = content.get(key) if isinstance(content, dict) else None
            if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
                raise DataError(
                    f"{path} has no list of entries {key!r}. A COCO annotation file for detection "
                    f"holds the lists {', '.join(LISTS)}.",
                    "unreadable annotation",
                )
        categories = _categories(content["categories"], path)
        return cls(
            path=path,
            images=content["images"],
            annotations=content["annotations"],
            category_ids=tuple(categories),
            class_names=tuple(categories.values()),
        )


@dataclass(frozen=True)
class COCOImage:
    """An entry of ``images``; ``size`` is (height, width)."""

    image_id: int | str
    file_name: str
    size: tuple[int, int]

    @classmethod
    def read(cls, entry: Entry, where: str) -> COCOImage:
        """Check an entry.

        Raises:
            DataError: if something is missing or of the wrong type.
        """
        image_id, name, height, width = map(entry.get, ("id", "file_name", "height", "width"))
        if (
            isinstance(image_id, int | str)
            and isinstance(name, str)
            and isinstance(height, int)
            and isinstance(width, int)
        ):
            return cls(image_id, name, (height, width))
        raise DataError.about(
            "incomplete image entry",
            where=where,
            found=f"id={image_id!r} file_name={name!r} height={height!r} width={width!r}",
            allowed="An image needs an id, a file name, and whole numbers as height and width",
        )


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


def read_flag(entry: Entry, key: str, where: str) -> bool:
    """Return a yes-or-no of an entry of ``annotations``; absent means no.

    Raises:
        DataError: if it is neither 0 nor 1.
    """
    value = entry.get(key, 0)
    if value in (0, 1):
        return bool(value)
    raise DataError.about(
        "unreadable flag", where=where, found=f"{key}={value!r}", allowed="It may be 0, 1 or absent"
    )


def read_area(entry: Entry, where: str) -> float:
    """Return the area of an entry of ``annotations``, NaN if it states none.

    Raises:
        DataError: if it is no finite number or negative.
    """
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


def show_box(corners: Corners) -> str:
    """Return corners as they stand in the file."""
    x1, y1, x2, y2 = corners
    return f"bbox=[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] (x, y, width, height)"


def _categories(entries: list[Entry], path: Path) -> dict[int, str]:
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


def _content(path: Path) -> Any:
    """Return what a file holds; outlines may be missing."""
    collecting = gc.isenabled()
    gc.disable()  # a million entries, none of them garbage, would be searched again and again
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        # Whatever is wrong, line and column have to be those of the file.
        return json.loads(path.read_bytes())
    finally:
        if collecting:
            gc.enable()


class COCODataset(IndexedDataset):
    """The images of one COCO annotation file, those without objects among them.

    The classes are the file's categories in the order of their ids. ``iscrowd`` marks crowds;
    ``ignore``, which files made from VOC have, marks difficult objects.

    Args:
        annotations: the JSON file.
        images: the folder that its file names start from.
        on_error: what to do about a bad image or object: ``raise`` a :class:`DataError`, or
            ``skip`` it and say so in one :class:`DataWarning`. COCO's own train2017 has boxes
            without area, so it needs ``skip``.

    Attributes:
        category_ids: the COCO category of each of the labels 1..K.

    Raises:
        DataError: for a file that is no COCO JSON or lists no image; for bad images and objects,
            if ``on_error`` is ``raise``.
    """

    def __init__(
        self, annotations: Path | str, images: Path | str, on_error: OnError = "raise"
    ) -> None:
        problems = Problems(on_error)
        file = COCOFile.read(Path(annotations))
        reader = _Reader(file, Path(images), problems)
        for number, entry in enumerate(file.images, start=1):
            try:
                reader.read_image(entry, number)
            except DataError as error:
                problems.add(error)
        for number, entry in enumerate(file.annotations, start=1):
            try:
                reader.read_object(entry, number)
            except DataError as error:
                problems.add(error)
        self.category_ids = file.category_ids
        super().__init__(
            class_names=file.class_names,
            index=reader.builder.build(),
            image_folder=Path(images),
            problems=problems,
            where=str(file.path),
        )


class _Reader:
    """Brings the entries of a file into an :class:`IndexBuilder`, one by one."""

    def __init__(self, file: COCOFile, folder: Path, problems: Problems) -> None:
        self.builder = IndexBuilder(file.class_names, problems, noun="annotation", show=show_box)
        self._path = file.path
        self._annotation = f"{file.path}, annotation"  # a path takes longer to write than to read
        self._folder = folder
        self._labels = {category: k for k, category in enumerate(file.category_ids, start=1)}
        self._images: dict[int | str, int | None] = {}  # None: the image was left out

    def read_image(self, entry: Entry, number: int) -> None:
        """Take in an entry of ``images``.

        Raises:
            DataError: for a fault of the image.
        """
        where = f"{self._path}, image number {number}"
        image_id = entry.get("id")
        if isinstance(image_id, int | str):
            if image_id in self._images:
                raise DataError.about(
                    "image listed twice",
                    where=where,
                    found=f"an earlier image has the id {image_id} as well",
                    allowed="Every image needs an id of its own",
                )
            self._images[image_id] = None
        image = COCOImage.read(entry, where)
        where = f"{self._path}, image {image.image_id} ({image.file_name})"
        size = checked_size(self._folder / image.file_name, image.size, where)
        self._images[image.image_id] = self.builder.add_image(
            str(image.image_id), image.file_name, size, where
        )

    def read_object(self, entry: Entry, number: int) -> None:
        """Take in an entry of ``annotations``, unless its image was left out.

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
            difficult=read_flag(entry, "ignore", where),
            crowd=read_flag(entry, "iscrowd", where),
            area=read_area(entry, where),
        )
