"""From what a reader finds in annotation files to an :class:`AnnotationIndex`.

Letters: T objects of all images together.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from rcnn.data.checking import BOX_FAULTS, box_faults, box_rule, clipped
from rcnn.data.errors import DataError, Problems
from rcnn.data.index import AnnotationIndex
from rcnn.data.strings import PackedStrings

Corners = tuple[float, float, float, float]


class IndexBuilder:
    """Collects images and objects, then checks all boxes at once.

    Args:
        class_names: of the labels 1..K.
        problems: where faults are reported.
        noun: what an object is called in messages, with ``number`` behind it.
        show: a box as the annotation writes it, for messages.
        shift: added to the written corners to get continuous 0-based boxes.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        problems: Problems,
        *,
        noun: str,
        show: Callable[[Corners], str],
        shift: Corners = (0.0, 0.0, 0.0, 0.0),
    ) -> None:
        self._class_names = class_names
        self._problems = problems
        self._noun = noun
        self._show = show
        self._shift = np.array(shift, dtype=np.float64)
        self._ids: list[str] = []
        self._files: list[str] = []
        self._places: list[str] = []
        self._sizes = array("i")
        self._images = array("q")
        self._numbers = array("q")
        self._corners = array("d")
        self._labels = array("h")
        self._difficult = array("b")
        self._crowd = array("b")
        self._areas = array("f")

    def add_image(self, image_id: str, file: str, size: tuple[int, int], where: str) -> int:
        """Take in an image and return its position.

        Args:
            image_id: unique.
            file: relative to the image folder.
            size: (height, width).
            where: the annotation file, for messages.
        """
        self._ids.append(image_id)
        self._files.append(file)
        self._sizes.extend(size)
        self._places.append(where)
        return len(self._ids) - 1

    def add_object(
        self,
        image: int,
        number: int,
        corners: Corners,
        label: int,
        *,
        difficult: bool = False,
        crowd: bool = False,
        area: float = float("nan"),
    ) -> None:
        """Take in an object of image number ``image``; the images may come in any order.

        Args:
            image: what :meth:`add_image` returned.
            number: by which a person finds the object in the annotation.
            corners: x1, y1, x2, y2 as written.
            label: 1..K.
            difficult: neither hit nor miss.
            crowd: a region of many objects.
            area: square pixels; the box's, if it is not a number.
        """
        self._images.append(image)
        self._numbers.append(number)
        self._corners.extend(corners)
        self._labels.append(label)
        self._difficult.append(difficult)
        self._crowd.append(crowd)
        self._areas.append(area)

    def build(self) -> AnnotationIndex:
        """Check every box, report the unsound ones and pack the rest.

        Raises:
            DataError: for an unsound box, if ``problems`` raises.
        """
        images = np.array(self._images, dtype=np.int64)
        corners = np.array(self._corners, dtype=np.float64).reshape(-1, 4)
        sizes = np.array(self._sizes, dtype=np.int32).reshape(-1, 2)
        order = np.argsort(images, kind="stable")
        faults = box_faults(corners, self._shift, sizes[images])
        for place in order[faults[order] > 0].tolist():
            self._problems.add(self._error(place, BOX_FAULTS[faults[place]]))
        kept = order[faults[order] == 0]
        boxes = clipped(corners[kept] + self._shift, sizes[images[kept]])
        areas = np.array(self._areas, dtype=np.float32)[kept]
        sides = boxes[:, 2:] - boxes[:, :2]
        counts = np.bincount(images[kept], minlength=len(sizes))
        return AnnotationIndex(
            image_ids=PackedStrings(self._ids),
            files=PackedStrings(self._files),
            sizes=sizes,
            ends=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes,
            labels=np.array(self._labels, dtype=np.int16)[kept],
            difficult=np.array(self._difficult, dtype=np.bool_)[kept],
            crowd=np.array(self._crowd, dtype=np.bool_)[kept],
            areas=np.where(np.isnan(areas), sides.prod(1), areas),
        )

    def _error(self, place: int, reason: str) -> DataError:
        image = self._images[place]
        x1, y1, x2, y2 = self._corners[4 * place : 4 * place + 4]
        name = self._class_names[self._labels[place] - 1]
        height, width = self._sizes[2 * image : 2 * image + 2]
        return DataError.about(
            reason,
            where=f"{self._places[image]}, {self._noun} {self._numbers[place]} ({name})",
            found=self._show((x1, y1, x2, y2)),
            allowed=box_rule((height, width)),
        )
