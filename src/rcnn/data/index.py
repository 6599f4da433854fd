"""Images and objects of a data set in flat arrays, and the checks of their boxes.

DataLoader workers share arrays with the process that forked them. Lists and dictionaries they
copy page by page, because looking at a Python object writes its reference count. All readers fill
an index through ``rcnn.data.builder``, where it is said how a reader is written.

Letters: I images, N boxes of all images. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int8, Int16, Int32, Int64

from rcnn.structures import GroundTruth


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
        labels: classes 1..K; 0 in ignored regions, which are crowds of any class.
        difficult: flags of objects that are neither true nor false positives when detected.
        crowd: flags of regions that hold many objects, or that are ignored.
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


BORDER = 1.0  # pixels by which a box may pass the border of its image: rounding, not a fault
WRAPPED = 65534.0  # -2 in an unsigned 16-bit number; the classic fault of VOC files read as uint16

# What box_faults finds; the position is its code.
BOX_FAULTS = (
    "sound box",
    "coordinate that is no finite number",
    "wrapped-around coordinate",
    "inverted box",
    "box without area",
    "box outside the image",
    "box over the border",
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
    with np.errstate(invalid="ignore"):  # infinite - infinite
        sides = corners[:, 2:] - corners[:, :2]
    limits = sizes[:, [1, 0, 1, 0]]
    inside = clipped(boxes, sizes)
    is_outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limits[:, 2:])).any(1)
    faults = [
        ~np.isfinite(corners).all(1),
        ((corners >= WRAPPED) & (limits < WRAPPED)).any(1),
        (sides < 0).any(1),
        (sides == 0).any(1) | (~is_outside & (inside[:, 2:] <= inside[:, :2]).any(1)),
        is_outside,
        ((boxes < -BORDER) | (boxes > limits + BORDER)).any(1),
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
