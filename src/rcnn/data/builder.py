"""The builder through which all readers fill an ``AnnotationIndex``.

**How a reader is written.** A reader is a subclass of ``IndexedDataset``. It finds the files of its
layout, names the classes, and hands over what is written, as it is written; the builder makes
sense of numbers and flags, compares sizes with the picture files, checks the boxes and applies the
policy. For a layout with a text file beside each picture and one ``name,x1,y1,x2,y2`` a line::

    class TextDataset(IndexedDataset):
        def __init__(self, root, class_names=None, on_error="repair", others="drop"):
            root, problems = Path(root), Problems(on_error)
            names = checked_class_names(read_lines(root / "classes.txt"), problems, "classes.txt")
            others = others if class_names else "error"
            names = tuple(class_names or names)
            builder = IndexBuilder(names, problems, image_folder=root, others=others)
            for file in list_files(root):
                if file.endswith(".csv"):
                    with builder.reading(f"{root}/{file}"):  # any exception gets this name
                        image = builder.add_image(file[:-4], f"{file[:-4]}.jpg", source=file)
                        for number, line in enumerate(read_lines(root / file), start=1):
                            name, *corners = line.split(",")
                            builder.add_object(image, number, [*map(float, corners)], name)
            super().__init__(builder, str(root))

An exception inside ``reading`` ends the reading of its image, which is an error or, under ``skip``,
takes the image out: so raise wherever the box of an object is not known. ``problems.settle`` counts
what the reader has settled itself; ``builder.ignore_object`` is for an object with a box of which
something else cannot be settled.

Letters: I images, N boxes of all images. Sizes are (height, width).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int16

from rcnn.data.errors import DataError, Problems
from rcnn.data.image_files import ImageFiles
from rcnn.data.images import MAX_PIXELS
from rcnn.data.index import (
    BOX_FAULTS,
    AnnotationIndex,
    PackedStrings,
    box_faults,
    box_rule,
    clipped,
)
from rcnn.data.outlines import Corners
from rcnn.data.reading import flag
from rcnn.settings import nearest, require

SETTLED_BOXES = {
    "box without area": "left out",
    "box outside the image": "left out",
    "box over the border": "clipped to the image",
}
DROPPED = [code for code, fault in enumerate(BOX_FAULTS) if SETTLED_BOXES.get(fault) == "left out"]

Others = Literal["error", "drop", "ignore"]
"""What becomes of objects of other classes than those of the index: they are faults; they are
left out, as of a class that the user has not selected; or they are ignored regions, as of a class
that the training split does not have."""

IGNORED = 0  # label of an ignored region
REGION = "it becomes an ignored region, which is neither background nor a target"
GONE = "its image is left out"


class IndexBuilder:
    """Collects images and objects as they are written, then checks all boxes at once.

    Args:
        class_names: names of the labels 1..K, each of its own.
        problems: log of the faults.
        image_folder: folder that the image files are relative to; the current one by default.
        others: what becomes of objects of other classes.
        object_name: function that names an object in messages, by its number.
        show: function that writes corners as the annotation has them, for messages.
        shift: added to the written corners to get continuous 0-based boxes.
        max_pixels: height x width of the largest picture.

    Raises:
        SettingsError: a class is named twice.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        problems: Problems,
        *,
        image_folder: Path = Path(),
        others: Others = "error",
        object_name: Callable[[int], str] = "object {}".format,
        show: Callable[[Corners], str] = str,
        shift: Corners = (0.0, 0.0, 0.0, 0.0),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        unique = len(set(class_names)) == len(class_names)
        require(unique, "class_names", [*class_names], "every class has a name of its own")
        self.class_names = tuple(class_names)
        self.problems = problems
        self.image_folder = image_folder
        self.max_pixels = max_pixels
        self._image_files = ImageFiles(image_folder, problems, max_pixels)
        self._others = others
        self._object_name = object_name
        self._show = show
        self._shift = np.array(shift, dtype=np.float64)
        self._labels = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._images: dict[str, int] = {}
        self._written: list[str] = []
        self._files: list[str] = []
        self._sources: list[str] = []
        self._sizes = array("i")  # height and width of each image
        self._left_out: set[int] = set()
        self._other_names: dict[str, str] = {}  # and how messages name them
        # Ten numbers an object: image, number, four corners, label, difficult, crowd, area.
        self._objects = array("d")

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Make any exception inside a fault, by which the images that were added inside go.

        Args:
            where: file or entry, for exceptions that do not name it.

        Raises:
            DataError: for an exception, unless the policy is ``skip``.
        """
        before = len(self._images)
        try:
            yield
        except Exception as error:
            self.fail(error, where, range(before, len(self._images)))

    def fail(self, error: Exception, where: str, images: Iterable[int]) -> None:
        """Make an exception a fault, by which ``images`` go; for loops in which seconds count.

        Raises:
            DataError: the exception with file and entry, unless the policy is ``skip``.
            MemoryError: it is one, which is no fault of the data.
        """
        if isinstance(error, MemoryError):
            raise error
        self.problems.leave_out(DataError.of(error, where), GONE)
        self._left_out.update(images)

    def add_image(
        self,
        image_id: str,
        file: str,
        size: tuple[object, object] = (None, None),
        *,
        source: str,
    ) -> int:
        """Add an image and return its position.

        Args:
            image_id: unique name.
            file: image file, relative to the image folder.
            size: (height, width) as written; None for what is not.
            source: annotation file or entry, for messages.

        Raises:
            DataError: the file is missing, broken or of another size, or another image has this
                id.
        """
        earlier = self._images.get(image_id)
        if earlier is not None and self._written[earlier] != file:
            self._left_out.add(earlier)  # nobody knows which of the two has the objects
            raise DataError.about(
                "one id for two images",
                where=source,
                found=f"{image_id} is {file}, and {self._written[earlier]} before",
                allowed="Every image needs an id of its own",
            )
        if earlier is not None:
            self.problems.settle(
                "image listed twice", where=source, found=file, made="it counts once"
            )
            return earlier
        found, found_size = self._image_files.find(file, size, source)
        return self._append(image_id, file, found, found_size, source)

    def add_picture(self, image_id: str, size: tuple[int, int], *, source: str) -> int:
        """Add an image without a file and return its position.

        Args:
            image_id: unique name.
            size: (height, width) in pixels.
            source: name of the picture, for messages.
        """
        return self._append(image_id, source, source, size, source)

    def _append(
        self, image_id: str, written: str, file: str, size: tuple[int, int], source: str
    ) -> int:
        self._images[image_id] = len(self._images)
        self._written.append(written)
        self._files.append(file)
        self._sizes.extend(size)
        self._sources.append(source)
        return len(self._images) - 1

    def size(self, image: int) -> tuple[int, int]:
        """Return (height, width) of an image."""
        return self._sizes[2 * image], self._sizes[2 * image + 1]

    def add_object(
        self,
        image: int,
        number: int,
        corners: Sequence[float],
        name: str,
        *,
        difficult: object = False,
        crowd: object = False,
        area: object = None,
    ) -> None:
        """Add an object; those of one image need not follow each other.

        Args:
            image: position of its image.
            number: number by which ``object_name`` names it.
            corners: x1, y1, x2, y2 as written.
            name: its class.
            difficult: whether a detection of it is neither true nor false positive, as written.
            crowd: whether it is a region of many objects, as written.
            area: area in square pixels, as written; None for that of the box.

        Raises:
            DataError: for a class or a flag that is not known, unless the policy is ``skip``.
        """
        label = self._labels.get(name)
        if label is None:
            self._add_other(image, number, corners, name)
            return
        try:
            flags = flag(difficult), flag(crowd)
        except (ValueError, TypeError):
            where = self._where(image, number, name)
            error = DataError.about(
                "unreadable flag",
                where=where,
                found=f"difficult={difficult!r} crowd={crowd!r}",
                allowed="A flag is 0, 1, false, true or absent",
            )
            self.ignore_object(image, number, corners, error)
            return
        try:
            square_pixels = math.nan if area is None else float(area)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError):
            self._settle_area(image, number, name, area)
            square_pixels = math.nan
        self._objects.extend((image, number, *corners, label, *flags, square_pixels))

    def ignore_object(
        self, image: int, number: int, corners: Sequence[float], error: DataError
    ) -> None:
        """Make an object that cannot be settled an ignored region.

        Raises:
            DataError: ``error``, unless the policy is ``skip``.
        """
        self.problems.leave_out(error, REGION)
        self._objects.extend((image, number, *corners, IGNORED, False, True, math.nan))

    def build(self) -> AnnotationIndex:
        """Check every box, settle or report the unsound ones and pack the rest.

        Raises:
            DataError: for an unsound box, as the policy says.
        """
        sizes = np.array(self._sizes, dtype=np.int32).reshape(-1, 2)
        objects = np.array(self._objects, dtype=np.float64).reshape(-1, 10)
        objects = objects[np.argsort(objects[:, 0], kind="stable")]
        objects = objects[self._kept_images()[objects[:, 0].astype(np.int64)]]
        faults = box_faults(objects[:, 2:6], self._shift, sizes[objects[:, 0].astype(np.int64)])
        for row in np.flatnonzero(faults).tolist():
            self._settle_box(objects[row], BOX_FAULTS[faults[row]])
        kept_images = self._kept_images()
        boxes = clipped(objects[:, 2:6] + self._shift, sizes[objects[:, 0].astype(np.int64)])
        kept = kept_images[objects[:, 0].astype(np.int64)] & ~np.isin(faults, DROPPED)
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        objects, boxes, images = objects[kept], boxes[kept], objects[kept, 0].astype(np.int64)
        with np.errstate(over="ignore"):
            areas = objects[:, 9].astype(np.float32)
        for row in np.flatnonzero((areas < 0) | np.isinf(areas)).tolist():
            image, number, label = objects[row, [0, 1, 6]].astype(np.int64).tolist()
            self._settle_area(image, number, self._name(label), objects[row, 9])
            areas[row] = math.nan
        labels = objects[:, 6].astype(np.int16)
        self._check_classes(labels)
        counts = np.bincount(images, minlength=len(sizes))[kept_images]
        image_ids, positions = list(self._images), np.flatnonzero(kept_images).tolist()
        return AnnotationIndex(
            image_ids=PackedStrings(image_ids[image] for image in positions),
            files=PackedStrings(self._files[image] for image in positions),
            sizes=sizes[kept_images],
            ends=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes,
            labels=labels,
            difficult=objects[:, 7].astype(np.bool_),
            crowd=objects[:, 8].astype(np.bool_),
            areas=np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(1), areas),
        )

    def _kept_images(self) -> Bool[np.ndarray, " I"]:
        kept = np.ones(len(self._images), dtype=np.bool_)
        kept[list(self._left_out)] = False
        return kept

    def _where(self, image: int, number: int, name: str = "") -> str:
        of_class = f" ({name})" if name else ""
        return f"{self._sources[image]}, {self._object_name(number)}{of_class}"

    def _name(self, label: int) -> str:
        return self.class_names[label - 1] if label != IGNORED else "ignored region"

    def _add_other(self, image: int, number: int, corners: Sequence[float], name: str) -> None:
        """Add or drop an object of no class of the index."""
        where = self._where(image, number)
        if name and self._others == "drop":
            self._other_names.setdefault(name, "")
            self.problems.note("class not selected", where=where, found=repr(name), made="left out")
            return
        if name not in self._other_names:  # nearest() takes long
            hint = nearest(name, self._labels) if name else "."
            self._other_names[name] = f"{name!r}{hint}"
        found = self._other_names[name]
        if name and self._others == "ignore":
            self.problems.settle("class not trained", where=where, found=found, made=REGION)
            self._objects.extend((image, number, *corners, IGNORED, False, True, math.nan))
            return
        error = DataError.about(
            "unknown class" if name else "object without class",
            where=where,
            found=found,
            allowed=f"The classes are {', '.join(self._labels)}",
        )
        self.ignore_object(image, number, corners, error)

    def _settle_area(self, image: int, number: int, name: str, area: object) -> None:
        self.problems.settle(
            "unreadable area",
            where=self._where(image, number, name),
            found=f"area={area!r}",
            made="the area of the box",
        )

    def _settle_box(self, row: Float64[np.ndarray, " 10"], fault: str) -> None:
        """Log an unsound box; leave out its image, or make it an ignored region, if it is kept."""
        image, number, label = int(row[0]), int(row[1]), int(row[6])
        where = self._where(image, number, self._name(label))
        x1, y1, x2, y2 = row[2:6].tolist()
        found = self._show((x1, y1, x2, y2))
        if fault in SETTLED_BOXES:
            self.problems.settle(fault, where=where, found=found, made=SETTLED_BOXES[fault])
            return
        rule = box_rule(self.size(image))
        error = DataError.about(fault, where=where, found=found, allowed=rule)
        if fault == "inverted box":
            self.problems.leave_out(error, REGION)
            row[2:6] = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            row[6:10] = (IGNORED, False, True, math.nan)
        else:
            self.problems.leave_out(error, GONE)
            self._left_out.add(image)

    def _check_classes(self, labels: Int16[np.ndarray, " N"]) -> None:
        """Note the selected classes without objects, which may be misspelt.

        Raises:
            DataError: no class of the data is known.
        """
        if not self._other_names:
            return
        where, others = str(self.image_folder), ", ".join(sorted(self._other_names))
        if self._others == "ignore" and not labels.any():
            raise DataError.about(
                "other classes",
                where=where,
                found=f"there are objects of {others}, and of no class that was trained",
                allowed=f"The classes are {', '.join(self._labels)}",
            )
        for label in sorted({*self._labels.values()}.difference(np.unique(labels).tolist())):
            if self._others == "drop":
                name = self.class_names[label - 1]
                found = f"{name!r}{nearest(name, self._other_names)} Others are {others}"
                made = "a class without objects"
                self.problems.note(
                    "selected class without objects", where=where, found=found, made=made
                )
