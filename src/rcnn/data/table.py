"""Data sets in tables: a CSV file with a row for each object.

The columns are found by their heads, whatever their order: those that TensorFlow's scripts write
(``filename,width,height,class,xmin,ymin,xmax,ymax``), x, y, width and height, a column ``bbox``
(``[x, y, width, height]``, as on Kaggle), Open Images' parts of the image. Without heads the
columns are those of RetinaNet (``path,x1,y1,x2,y2,class``), or TensorFlow's eight. A row without a
box is an image without objects.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from rcnn.data.builder import IndexBuilder, Others
from rcnn.data.class_names import checked_class_names
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import MAX_PIXELS
from rcnn.data.reading import decode, list_files, read_lines

HEADS = {
    "file": "filename file file_name image image_path image_name image_id imageid path img",
    "class": "class label name class_name category labelname label_name category_name class_label",
    "x1": "xmin x_min x1 left bbox_xmin",
    "y1": "ymin y_min y1 top bbox_ymin",
    "x2": "xmax x_max x2 right bbox_xmax",
    "y2": "ymax y_max y2 bottom bbox_ymax",
    "x": "x bbox_x",
    "y": "y bbox_y",
    "w": "w bbox_w bbox_width box_width",
    "h": "h bbox_h bbox_height box_height",
    "width": "width image_width img_width",
    "height": "height image_height img_height",
    "box": "bbox box bounding_box",
    "difficult": "difficult isdifficult",
    "crowd": "iscrowd crowd isgroupof",
}
"""The heads of the columns, in lower case, by what is in them."""

BY_HEAD = {head: column for column, heads in HEADS.items() for head in heads.split()}
RETINANET = ("file", "x1", "y1", "x2", "y2", "class")
TENSORFLOW = ("file", "width", "height", "class", "x1", "y1", "x2", "y2")
ONE_CLASS = "object"  # the class of a table without classes

Row = Mapping[str, str]


class CSVDataset(IndexedDataset):
    """The images of one table.

    Args:
        table: the CSV file; its delimiter is a comma, semicolon, tabulator or bar.
        images: folder of the pictures; by default that of the table.
        class_names: names of the labels 1..K, which selects and orders them; by default the lines
            of ``classes.txt`` or ``classes.csv`` beside the table, or the sorted names in it.
        on_error: what to do about a bad image or object, see ``rcnn.data.errors``.
        others: what becomes of objects of classes that ``class_names`` does not have.
        max_pixels: height x width of the largest picture that is read.

    Raises:
        DataError: for a table that cannot be read or lacks a column; for bad images and objects,
            as ``on_error`` says.
    """

    def __init__(
        self,
        table: Path | str,
        images: Path | str | None = None,
        class_names: Sequence[str] | None = None,
        on_error: OnError = "repair",
        *,
        others: Others = "drop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        problems, table = Problems(on_error), Path(table)
        folder = table.parent if images is None else Path(images)
        rows = read_table(table)
        builder = IndexBuilder(
            class_names or checked_class_names(_class_names(table, rows), problems, str(table)),
            problems,
            image_folder=folder,
            others="error" if class_names is None else others,
            object_name="row {}".format,
            max_pixels=max_pixels,
        )
        of_image: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            of_image[row["file"]].append(number)
        files = _files_by_stem(folder) if any(_is_bare(name) for name in of_image) else {}
        parts = _are_parts(rows)
        if parts:
            found = "all coordinates are at most 1"
            problems.note("coordinates", where=str(table), found=found, made="parts of the image")
        for name, numbers in of_image.items():
            where = f"{table}, image {name}"
            with builder.reading(where):
                first = rows[numbers[0]]
                size = first.get("height") or None, first.get("width") or None
                file = files.get(name, name) if _is_bare(name) else name
                image = builder.add_image(name, file, size, source=where)
                for number in numbers:
                    _read_row(builder, image, number, rows[number], parts)
        super().__init__(builder, str(table))


def read_table(table: Path) -> list[Row]:
    """Return the rows of a table by what is in their columns, see ``HEADS``.

    Raises:
        DataError: the file is missing, holds no row, or lacks a column.
    """
    try:
        text, _ = decode(table.read_bytes())
    except OSError as error:
        raise DataError.about(
            "unreadable annotation",
            where=str(table.absolute()),
            found=str(error.strerror),
            allowed="It has to be a CSV file with a row for each object",
        ) from error
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = max(",;\t|", key=lines[0].count) if lines else ","
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if not cells:
        raise DataError(f"{table} is empty. It needs a row for each object.", "empty data set")
    columns = _columns(cells[0])
    if columns is not None:
        cells = cells[1:]
    else:
        columns = {8: TENSORFLOW, 6: RETINANET}.get(len(cells[0]), ())
    lacking = [
        " or ".join(options)
        for options in (("file",), ("x1", "x", "box"))
        if not set(options) & set(columns)
    ]
    if lacking:
        raise DataError.about(
            "missing column",
            where=str(table),
            found=f"the first line is {delimiter.join(cells[0]) if cells else ''!r}",
            allowed="A table needs a head such as filename,class,xmin,ymin,xmax,ymax, or without a "
            "head the columns path,x1,y1,x2,y2,class",
        )
    rows = [dict(zip(columns, row, strict=False)) for row in cells]
    return [{key: value for key, value in row.items() if key} for row in rows if row.get("file")]


def table_class_names(table: Path) -> tuple[str, ...]:
    """Return the classes of a table: those of a list beside it, or the sorted names in it.

    Raises:
        DataError: the table cannot be read.
    """
    return _class_names(table, read_table(table))


def _class_names(table: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    for name in ("classes.txt", "classes.csv"):
        if table.name != name and table.with_name(name).is_file():
            lines = read_lines(table.with_name(name))
            return tuple(line.split(",")[0] for line in lines if line)  # RetinaNet's: name,number
    names = {row.get("class", ONE_CLASS) for row in rows if _has_box(row)} - {""}
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=int)) if numbers else tuple(sorted(names))


def _columns(heads: Sequence[str]) -> tuple[str, ...] | None:
    """Return what is in each column, "" for what is not read; None if these are no heads."""
    found = [BY_HEAD.get(head.lower().replace(" ", "_").strip("\"'"), "") for head in heads]
    if "file" not in found and not {"x1", "box", "x"} & set(found):
        return None
    if "x" in found and "w" not in found:  # width and height are the box's, without any other
        found = [{"width": "w", "height": "h"}.get(column, column) for column in found]
    # The first of two columns for one thing counts: label, label_name.
    return tuple(
        column if column not in found[:number] else "" for number, column in enumerate(found)
    )


def _read_row(builder: IndexBuilder, image: int, number: int, row: Row, parts: bool) -> None:
    if not _has_box(row):
        return
    corners = _corners(row)
    if parts:
        height, width = builder.size(image)
        corners = [value * side for value, side in zip(corners, (width, height) * 2, strict=True)]
    builder.add_object(
        image,
        number + 1,
        corners,
        row.get("class", ONE_CLASS),
        difficult=row.get("difficult"),
        crowd=row.get("crowd"),
    )


def _corners(row: Row) -> list[float]:
    """Return the corners of a row's box.

    Raises:
        ValueError: a number is missing or is none.
    """
    if "x1" in row:
        return [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
    if "x" in row:
        x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
    else:
        numbers = re.findall(r"[-+]?[\d.]+(?:e[-+]?\d+)?", row["box"], re.IGNORECASE)
        x, y, width, height = map(float, numbers)
    return [x, y, x + width, y + height]


def _has_box(row: Row) -> bool:
    keys = ("x1", "y1", "x2", "y2") if "x1" in row else ("x", "y", "w", "h", "box")
    return any(row.get(key) for key in keys)


def _are_parts(rows: Sequence[Row]) -> bool:
    """Return whether the coordinates are parts of the image: none above 1, and not all whole."""
    texts = [row.get(key, "") for row in rows for key in ("x1", "y1", "x2", "y2")]
    try:
        values = [float(text) for text in texts if text]
    except ValueError:
        return False  # the row is reported when it is read
    return bool(values) and max(values) <= 1 and any(not value.is_integer() for value in values)


def _is_bare(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() not in Image.registered_extensions()


def _files_by_stem(folder: Path) -> dict[str, str]:
    """Return the picture of each name without suffix; one that two pictures have is none."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in list_files(folder):
        if not _is_bare(file):
            found[PurePosixPath(file).stem].append(file)
    return {stem: files[0] for stem, files in found.items() if len(files) == 1}
