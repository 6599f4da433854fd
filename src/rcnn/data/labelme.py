"""Data sets that Labelme wrote: a JSON file of shapes for each picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.builder import IndexBuilder, Others
from rcnn.data.class_names import checked_class_names
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import MAX_PIXELS
from rcnn.data.outlines import Corners, polygon_corners
from rcnn.data.reading import decode, list_files

WITHOUT_AREA = ("point", "line", "linestrip", "points")


class LabelmeDataset(IndexedDataset):
    """The pictures of a folder that have a Labelme file.

    Args:
        root: folder of the files, in which sub-folders are searched, too.
        class_names: names of the labels 1..K, which selects and orders them; by default the sorted
            labels of all shapes.
        on_error: what to do about a bad image or object, see ``rcnn.data.errors``.
        others: what becomes of objects of classes that ``class_names`` does not have.
        max_pixels: height x width of the largest picture that is read.

    Raises:
        DataError: for a folder without such files; for bad images and objects, as ``on_error``
            says.
    """

    def __init__(
        self,
        root: Path | str,
        class_names: Sequence[str] | None = None,
        on_error: OnError = "repair",
        *,
        others: Others = "drop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        problems, root = Problems(on_error), Path(root)
        contents = read_labelme_files(root)
        if not contents:
            raise DataError(
                f"{root.absolute()} has no Labelme file: no *.json with the list shapes was found "
                "in it. Check data.root.",
                "wrong layout",
            )
        labels = labelme_class_names(contents)
        builder = IndexBuilder(
            class_names or checked_class_names(labels, problems, str(root)),
            problems,
            image_folder=root,
            others="error" if class_names is None else others,
            object_name="shape {}".format,
            max_pixels=max_pixels,
        )
        for file, content in contents.items():
            with builder.reading(str(root / file)):
                _read_shapes(builder, file, content)
        super().__init__(builder, str(root))


Contents = Mapping[str, Mapping[str, Any]]
"""The content of Labelme files by their names."""


def read_labelme_files(root: Path) -> Contents:
    """Return the content of every Labelme file in a folder; other JSON files are passed over."""
    names = [name for name in list_files(root) if name.lower().endswith(".json")]
    found = {name: _read(root / name) for name in names}
    return {name: content for name, content in found.items() if content is not None}


def labelme_class_names(contents: Contents) -> tuple[str, ...]:
    """Return the sorted labels of all shapes."""
    shapes = [shape for content in contents.values() for shape in content["shapes"]]
    return tuple(sorted({str(shape.get("label", "")) for shape in shapes} - {""}))


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(decode(file.read_bytes())[0])
    except (OSError, ValueError, RecursionError):
        return None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    sound = isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)
    return content if sound else None


def _read_shapes(builder: IndexBuilder, file: str, content: Mapping[str, Any]) -> None:
    source = f"{builder.image_folder}/{file}"
    named = str(content.get("imagePath") or PurePosixPath(file).with_suffix(".jpg").name)
    picture = str(PurePosixPath(file).parent / PurePosixPath(named.replace("\\", "/")).name)
    size = content.get("imageHeight"), content.get("imageWidth")
    image = builder.add_image(file.removesuffix(".json"), picture, size, source=source)
    for number, shape in enumerate(content["shapes"], start=1):
        kind = str(shape.get("shape_type") or "polygon")
        if kind in WITHOUT_AREA:
            where = f"{source}, shape {number}"
            made = "left out: it covers nothing"
            builder.problems.settle("shape without area", where=where, found=kind, made=made)
            continue
        corners = _circle(shape["points"]) if kind == "circle" else polygon_corners(shape["points"])
        flags = shape.get("flags") or {}
        difficult = flags.get("difficult") if isinstance(flags, Mapping) else None
        builder.add_object(image, number, corners, str(shape.get("label", "")), difficult=difficult)


def _circle(points: Any) -> Corners:
    """Return the corners around a circle that is given by its centre and a point of it."""
    (x, y), (px, py) = ([float(number) for number in point] for point in points)
    radius = math.hypot(px - x, py - y)
    return x - radius, y - radius, x + radius, y + radius
