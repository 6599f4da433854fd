"""Data sets in COCO's JSON format: https://cocodataset.org/#format-data."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rcnn.data.builder import IndexBuilder, Others
from rcnn.data.class_names import checked_class_names, is_background
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import MAX_PIXELS
from rcnn.data.outlines import Corners, mask_corners, polygon_corners

Entry = Mapping[str, Any]
LISTS = ("images", "annotations", "categories")
T = TypeVar("T")
D = TypeVar("D")


class COCODataset(IndexedDataset):
    """The images of one COCO annotation file, those without objects among them.

    The classes are the file's categories in the order of their ids, without those that only group
    others and have no object. ``iscrowd`` marks crowds; ``ignore``, which files made from VOC have,
    marks difficult objects. A file without ``annotations`` has images for prediction alone.

    Args:
        annotations: the JSON file.
        images: folder that its file names are relative to.
        on_error: what to do about a bad image or object, see ``rcnn.data.errors``.
        class_names: names of the labels 1..K; without them, all classes of the file.
        others: what becomes of objects of classes that ``class_names`` does not have.
        max_pixels: height x width of the largest picture that is read.

    Attributes:
        category_ids: COCO category of each of the labels 1..K, None for a class that the file does
            not have.
        is_annotated: whether the file has ``annotations``.

    Raises:
        DataError: for a file that is no COCO JSON or lists no image; for bad images and objects,
            as ``on_error`` says.
    """

    def __init__(
        self,
        annotations: Path | str,
        images: Path | str,
        on_error: OnError = "repair",
        *,
        class_names: Sequence[str] | None = None,
        others: Others = "drop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        problems = Problems(on_error)
        path, folder = Path(annotations), Path(images)
        content = _content(path)
        if not folder.is_dir():
            raise DataError(
                f"{folder.absolute()} is no folder; the images of {path} should be there. Set "
                "data.train_images, data.val_images and data.test_images to the folder, relative "
                "to data.root.",
                "missing folder",
            )
        categories = _categories(content, problems, path)
        found = tuple(dict.fromkeys(categories.values()))
        names = tuple(class_names or found)
        if class_names and others == "ignore":
            _compare(names, found, problems, path)
        self.category_ids = tuple(
            next((key for key, known in categories.items() if known == name), None)
            for name in names
        )
        self.is_annotated = bool(content["is_annotated"])
        objects = content["annotations"]
        builder = IndexBuilder(
            names,
            problems,
            image_folder=folder,
            others=others,
            object_name=lambda number: _annotation_name(objects, number),
            show=_show_box,
            max_pixels=max_pixels,
        )
        reader = _Reader(path, builder, categories)
        for number, entry in enumerate(content["images"], start=1):
            with builder.reading(f"{path}, image number {number}"):
                reader.read_image(entry)
        for number, entry in enumerate(objects, start=1):
            try:
                reader.read_object(entry, number)
            except Exception as error:
                where = f"{path}, {_annotation_name(objects, number)}"
                builder.fail(error, where, reader.images_of(entry))
        if reader.strays and reader.strays == len(objects):
            raise DataError.about(
                STRAY,
                where=str(path),
                found=f"not one of {len(objects)} annotations has the id of an image",
                allowed="image_id has to be the id of one of the images in the same file",
            )
        if not self.is_annotated:
            problems.note(
                "file without annotations",
                where=str(path),
                found=f"{len(content['images'])} images",
                made="they have no objects, for prediction alone",
            )
        super().__init__(builder, str(path))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the classes of an annotation file as ``COCODataset`` names them.

    Raises:
        DataError: for a file that is no COCO JSON.
    """
    return tuple(dict.fromkeys(_categories(_content(path), Problems(), path).values()))


def _content(path: Path) -> dict[str, Any]:
    """Return the lists of an annotation file.

    Raises:
        DataError: if it is missing, no JSON, or lacks a list.
    """
    collecting = gc.isenabled()
    gc.disable()  # a million entries, none of them garbage, would be searched again and again
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # a JSON error names line and column
        raise DataError(
            f"{path.absolute()} cannot be read as JSON: {error}. It has to be a COCO annotation "
            "file, which data.train, data.val and data.test name below data.root.",
            "unreadable annotation",
        ) from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        content = {}
    is_annotated = "annotations" in content
    lists = {key: content.get(key, None if is_annotated else []) for key in LISTS}
    lists["images"] = content.get("images")
    for key, entries in lists.items():
        if not isinstance(entries, list):
            raise DataError(
                f"{path} has no list of entries {key!r}. A COCO annotation file for detection "
                f"holds the lists {', '.join(LISTS)}.",
                "unreadable annotation",
            )
    return {**lists, "is_annotated": is_annotated}


def _categories(content: Mapping[str, Any], problems: Problems, path: Path) -> dict[Any, str]:
    """Return the class name of each category id, in ascending order of the ids.

    Raises:
        DataError: for a category without id or name, or an id with two names.
    """
    names: dict[Any, str] = {}
    groups: set[str] = set()
    for number, entry in enumerate(content["categories"], start=1):
        where = f"{path}, category number {number}"
        try:
            key, name = entry["id"], str(entry["name"])
            if name != entry.get("supercategory"):
                groups.add(str(entry.get("supercategory")))
            if key is None or entry["name"] is None or names.setdefault(key, name) != name:
                raise ValueError(f"the id was used before, for {names.get(key)!r}")
        except Exception as error:
            raise DataError.about(
                "unreadable category",
                where=where,
                found=f"{entry!r} ({type(error).__name__}: {error})",
                allowed="Every category needs an id of its own and a name",
            ) from error
    if all(isinstance(key, int) for key in names):
        names = dict(sorted(names.items()))
    groups.intersection_update(names.values())
    used: set[str] = set()
    if groups or any(map(is_background, names.values())):
        ids = {str(e.get("category_id")) for e in content["annotations"] if isinstance(e, dict)}
        used = {name for key, name in names.items() if str(key) in ids}
    for name in sorted(groups - used):
        problems.note(
            "category that only groups others",
            where=str(path),
            found=f"{name!r} has no object",
            made="no class",
        )
    named = [name for name in names.values() if name not in groups - used]
    kept = checked_class_names(named, problems, str(path), used)
    return {key: name for key, name in names.items() if name in kept}


def _compare(names: Sequence[str], found: Sequence[str], problems: Problems, path: Path) -> None:
    """Note the classes that only the training split, or only this one, has."""
    for owner, these, those in (
        ("the training split", names, found),
        ("this split", found, names),
    ):
        only = [name for name in these if name not in those]
        if only:
            problems.note(
                f"class that only {owner} has",
                where=str(path),
                found=", ".join(only),
                made="it has no average precision here",
            )


class _Reader:
    """Brings the entries of a file into an ``IndexBuilder``, one by one."""

    def __init__(self, path: Path, builder: IndexBuilder, categories: Mapping[Any, str]) -> None:
        self.strays = 0
        self._path = path
        self._annotation = f"{path}, annotation"  # a path takes longer to write than to read
        self._builder = builder
        # Ids are known as they are and as text: "7" in one list may be 7 in the other.
        self._names: dict[object, str] = {}
        for key, name in categories.items():
            self._names[key] = self._names[str(key)] = name
        self._images: dict[object, int] = {}

    def read_image(self, entry: Any) -> None:
        """Add an entry of ``images``, as it is in the file.

        Raises:
            DataError: for a fault of the image.
        """
        key, name = entry.get("id"), entry.get("file_name")
        name = name or PurePosixPath(entry.get("coco_url") or "").name
        if not isinstance(key, int | float | str) or not isinstance(name, str) or not name:
            raise DataError.about(
                "incomplete image entry",
                where=f"{self._path}, an entry of images",
                found=f"id={key!r} file_name={entry.get('file_name')!r}",
                allowed="An image needs an id and a file name",
            )
        image_id = str(int(key) if isinstance(key, float) else key)
        for known in (key, image_id):
            self._images.setdefault(known, LEFT_OUT)
        where = f"{self._path}, image {image_id} ({name})"
        size = entry.get("height"), entry.get("width")
        image = self._builder.add_image(image_id, name, size, source=where)
        self._images[key] = self._images[image_id] = image

    def images_of(self, entry: object) -> list[int]:
        """Return the image that an entry of ``annotations`` belongs to, none if it is unknown."""
        key = entry.get("image_id") if isinstance(entry, dict) else None
        return [image for image in [_find(self._images, key, UNKNOWN)] if image >= 0]

    def read_object(self, entry: Any, number: int) -> None:
        """Add an entry of ``annotations``, unless its image was left out.

        Raises:
            DataError: its box cannot be read, or its class or a flag, as the policy says.
        """
        image, builder = _find(self._images, entry["image_id"], UNKNOWN), self._builder
        if image == LEFT_OUT:
            return
        where = f"{self._annotation} {entry.get('id', number)}"
        if image == UNKNOWN:
            self.strays += 1
            found = f"image_id={entry['image_id']!r}"
            builder.problems.settle(STRAY, where=where, found=found, made="left out")
            return
        corners = self._corners(entry, where, image)
        name = _find(self._names, entry.get("category_id"), None)
        if name is None:
            error = DataError.about(
                "unknown class",
                where=where,
                found=f"category_id={entry.get('category_id')!r}",
                allowed="It has to be the id of one of the categories in the same file",
            )
            builder.ignore_object(image, number, corners, error)
            return
        builder.add_object(
            image,
            number,
            corners,
            name,
            difficult=entry.get("ignore"),
            crowd=entry.get("iscrowd"),
            area=entry.get("area"),
        )

    def _corners(self, entry: Entry, where: str, image: int) -> Corners:
        """Return the box of an object; without one, the box around its outline."""
        outline, box = entry.get("segmentation"), entry.get("bbox")
        try:
            corners = read_corners(entry, where)
            if not outline or any(box or ()):
                return corners
        except DataError:
            if not outline:
                raise
        try:
            if isinstance(outline, Mapping):
                corners = mask_corners(outline, self._builder.size(image))
            else:
                corners = polygon_corners(outline)
        except Exception as error:
            raise DataError.about(
                "unreadable coordinate",
                where=where,
                found=f"bbox={box!r}, and segmentation is unreadable ({error})",
                allowed="bbox has to be a list of four numbers: x, y, width, height",
            ) from error
        self._builder.problems.settle(
            "object without box",
            where=where,
            found=f"bbox={box!r}",
            made="the box around its segmentation",
        )
        return corners


UNKNOWN, LEFT_OUT = -1, -2
STRAY = "annotation of no image"


def _find(known: Mapping[object, T], key: object, otherwise: D) -> T | D:
    """Return what has an id, which may be written as a number or as a text."""
    try:
        return known[key]
    except (KeyError, TypeError):
        return known.get(str(key), otherwise)


def read_corners(entry: Entry, where: str) -> Corners:
    """Return x1, y1, x2, y2 of an entry of ``annotations``.

    Raises:
        DataError: if its ``bbox`` is not four numbers.
    """
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        try:
            x, y, width, height = map(float, box)
            return x, y, x + width, y + height
        except (TypeError, ValueError, OverflowError):
            pass  # suppress() would take a tenth of the time in which a large file is opened
    raise DataError.about(
        "unreadable coordinate",
        where=where,
        found=f"bbox={box!r}",
        allowed="bbox has to be a list of four numbers: x, y, width, height",
    )


def _annotation_name(entries: Sequence[Any], number: int) -> str:
    entry = entries[number - 1]
    return f"annotation {entry.get('id', number) if isinstance(entry, dict) else number}"


def _show_box(corners: Corners) -> str:
    """Return corners as they are written in the file."""
    x1, y1, x2, y2 = corners
    return f"bbox=[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] (x, y, width, height)"
