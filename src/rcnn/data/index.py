"""Images and objects of a data set in flat arrays, and the checks that they pass on the way in.

DataLoader workers share arrays with the process that forked them. Lists and dictionaries they
copy page by page, because looking at a Python object writes its reference count.

Letters: I images, N boxes of all images. Sizes are (height, width).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int8, Int16, Int32, Int64

from rcnn.data.errors import DataError, Problems
from rcnn.data.images import read_header, read_image, wrong_size
from rcnn.structures import GroundTruth

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings that holds no Python object per string."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return PackedStrings(self[position] for position in chosen)
        return self._bytes[self._ends[chosen] : self._ends[chosen + 1]].tobytes().decode()


@dataclass(frozen=True)
class AnnotationIndex:
    """Every image and object of a data set.

    Attributes:
        image_ids: unique names.
        files: image files, relative to the data set's image folder.
        sizes: sizes as annotated, which is as decoded.
        ends: positions in the arrays of objects; image i has ``ends[i]`` up to ``ends[i + 1]``.
        boxes: continuous corners in pixels.
        labels: classes 1..K.
        difficult: flags of objects that are neither true nor false positives when detected.
        crowd: flags of regions that hold many objects.
        areas: areas in square pixels.
    """

    image_ids: PackedStrings
    files: PackedStrings
    sizes: Int32[np.ndarray, "I 2"]
    ends: Int64[np.ndarray, " I+1"]
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int16[np.ndarray, " N"]
    difficult: Bool[np.ndarray, " N"]
    crowd: Bool[np.ndarray, " N"]
    areas: Float32[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def aspect_ratios(self) -> Float32[np.ndarray, " I"]:
        """Width over height of each image."""
        return np.asarray(self.sizes[:, 1] / self.sizes[:, 0], dtype=np.float32)

    def size(self, image: int) -> tuple[int, int]:
        """Return (height, width) of one image."""
        height, width = self.sizes[image].tolist()
        return height, width

    def ground_truth(self, image: int) -> GroundTruth:
        """Return the objects of one image, as tensors of their own."""
        objects = slice(self.ends[image], self.ends[image + 1])
        return GroundTruth(
            boxes=torch.tensor(self.boxes[objects]),
            labels=torch.tensor(self.labels[objects], dtype=torch.int64),
            difficult=torch.tensor(self.difficult[objects]),
            crowd=torch.tensor(self.crowd[objects]),
            areas=torch.tensor(self.areas[objects]),
        )


class IndexBuilder:
    """Collects images and objects, then checks all boxes at once.

    Args:
        class_names: names of the labels 1..K.
        problems: log of the faults.
        noun: word for an object in messages; its number follows.
        show: function that writes corners as the annotation has them, for messages.
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
        self._sources: list[str] = []
        self._sizes = array("i")  # height and width of each image
        # Ten numbers an object: image, number, four corners, label, difficult, crowd, area.
        self._objects = array("d")

    def add_image(self, image_id: str, file: str, size: tuple[int, int], source: str) -> int:
        """Add an image and return its position.

        Args:
            image_id: unique name.
            file: image file, relative to the image folder.
            size: (height, width).
            source: annotation file, for messages.
        """
        self._ids.append(image_id)
        self._files.append(file)
        self._sizes.extend(size)
        self._sources.append(source)
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
        """Add an object; those of one image need not follow each other.

        Args:
            image: position of its image.
            number: number or id by which a person finds the object in the annotation.
            corners: x1, y1, x2, y2 as written.
            label: class, 1..K.
            difficult: whether a detection of it is neither true nor false positive.
            crowd: whether it is a region of many objects.
            area: area in square pixels; NaN for that of the box.
        """
        self._objects.extend((image, number, *corners, label, difficult, crowd, area))

    def build(self) -> AnnotationIndex:
        """Check every box, report the unsound ones and pack the rest.

        Raises:
            DataError: for an unsound box, if ``problems`` raises.
        """
        sizes = np.array(self._sizes, dtype=np.int32).reshape(-1, 2)
        objects = np.array(self._objects, dtype=np.float64).reshape(-1, 10)
        objects = objects[np.argsort(objects[:, 0], kind="stable")]
        faults = box_faults(objects[:, 2:6], self._shift, sizes[objects[:, 0].astype(np.int64)])
        for row in np.flatnonzero(faults).tolist():
            self._problems.add(self._error(objects[row], BOX_FAULTS[faults[row]]))
        objects = objects[faults == 0]
        images = objects[:, 0].astype(np.int64)
        boxes = clipped(objects[:, 2:6] + self._shift, sizes[images])
        areas = objects[:, 9].astype(np.float32)
        counts = np.bincount(images, minlength=len(sizes))
        return AnnotationIndex(
            image_ids=PackedStrings(self._ids),
            files=PackedStrings(self._files),
            sizes=sizes,
            ends=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes,
            labels=objects[:, 6].astype(np.int16),
            difficult=objects[:, 7].astype(np.bool_),
            crowd=objects[:, 8].astype(np.bool_),
            areas=np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(1), areas),
        )

    def _error(self, row: Float64[np.ndarray, " 10"], reason: str) -> DataError:
        image, number, x1, y1, x2, y2, label = row[:7].tolist()
        height, width = self._sizes[2 * int(image) : 2 * int(image) + 2]
        name = self._class_names[int(label) - 1]
        return DataError.about(
            reason,
            where=f"{self._sources[int(image)]}, {self._noun} {int(number)} ({name})",
            found=self._show((x1, y1, x2, y2)),
            allowed=box_rule((height, width)),
        )


BORDER = 1.0  # pixels by which a box may pass the border of its image: rounding, not a fault
WRAPPED = 65534.0  # -2 in an unsigned 16-bit number; the classic fault of VOC files read as uint16

# The reasons by which a box is refused; the position is the code in box_faults.
BOX_FAULTS = (
    "sound box",
    "coordinate that is no finite number",
    "wrapped-around coordinate",
    "inverted box",
    "box outside the image",
    "box without area",
)


def box_faults(
    corners: Float64[np.ndarray, "N 4"],
    shift: Float64[np.ndarray, " 4"],
    sizes: Int[np.ndarray, "N 2"],
) -> Int8[np.ndarray, " N"]:
    """Return the first fault of each box as a position in ``BOX_FAULTS``, 0 for none.

    Args:
        corners: x1, y1, x2, y2 as written in the annotation. Order and area are judged on these:
            in a 1-based inclusive file equal corners would become a box of one pixel, but they
            are the mark of a click that was not dragged.
        shift: added to ``corners`` to get continuous 0-based boxes.
        sizes: size of each box's image.
    """
    boxes = corners + shift
    sides = corners[:, 2:] - corners[:, :2]
    limits = sizes[:, [1, 0, 1, 0]]
    inside = clipped(boxes, sizes)
    faults = [
        ~np.isfinite(corners).all(1),
        ((corners >= WRAPPED) & (limits < WRAPPED)).any(1),
        (sides < 0).any(1),
        ((boxes < -BORDER) | (boxes > limits + BORDER)).any(1),
        (sides <= 0).any(1) | (inside[:, 2:] <= inside[:, :2]).any(1),
    ]
    return np.select(faults, np.arange(1, len(BOX_FAULTS)), default=0).astype(np.int8)


def clipped(
    boxes: Float64[np.ndarray, "N 4"], sizes: Int[np.ndarray, "N 2"]
) -> Float32[np.ndarray, "N 4"]:
    """Return the part of each box that lies inside its image."""
    limits = sizes[:, [1, 0, 1, 0]]
    return np.asarray(np.clip(boxes, 0, limits), dtype=np.float32)


def box_rule(size: tuple[int, int]) -> str:
    """Return the sentence about what a box in an image of ``size`` has to be."""
    return (
        "A box needs finite corners, left before right and top before bottom, "
        f"inside its image of {size[1]} x {size[0]} pixels"
    )


def checked_size(file: Path, annotated: tuple[int, int] | None, where: str) -> tuple[int, int]:
    """Return the (height, width) with which an image file is read, after a check of its two ends.

    A JPEG or PNG without its end marker is decoded, to know a cut-off file from one with
    something harmless behind its end.

    Args:
        file: the image.
        annotated: size that its annotation states, if it states one.
        where: annotation, for the message.

    Raises:
        DataError: if the file is missing, broken, cut off, or not of the annotated size.
    """
    header = read_header(file)
    if not header.has_end:
        read_image(file)
    if annotated is None:
        return header.size
    if annotated not in (header.size, header.turned_size):
        raise wrong_size(f"{where}, {file}", annotated, (header.size, header.turned_size))
    return annotated
